"""Hundreds of clients that send a byte a second: the server stays small, and answers everybody else."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from emberfleet.agent.client import ServerClient, enrol_device
from emberfleet.agent.identity import Identity
from emberfleet.core.requests import sign_request
from emberfleet.server.fleet import make_tokens
from tests.e2e.test_fleet_commands import address_in, folder, process

__all__ = ["folder"]
SLOW = 500
GROWTH_MIB = 24.0
"""Measured: 5.5 MiB; a server that keeps 64 KiB for each connection would need 31."""
PATIENCE_S = 30.0
"""A server that waits 10 s for a head or a body, and 3 s for what it refused, is done long before."""


class SlowClients(threading.Thread):
    """Connections that each send a byte a second of what the server waits for, until it hangs up."""

    def __init__(self, address: str, beginnings: list[bytes]) -> None:
        super().__init__(daemon=True)
        host, port = address.removeprefix("http://").split(":")
        self.connections: list[socket.socket] = []
        self.cut_off = 0
        self.done = threading.Event()
        for beginning in beginnings:
            connection = socket.create_connection((host, int(port)))
            connection.sendall(beginning)
            connection.setblocking(False)
            self.connections.append(connection)

    def run(self) -> None:
        while self.connections and not self.done.wait(1.0):
            for connection in list(self.connections):
                if not self._send_a_byte(connection):
                    connection.close()
                    self.connections.remove(connection)
                    self.cut_off += 1
        for connection in self.connections:
            connection.close()

    def _send_a_byte(self, connection: socket.socket) -> bool:
        try:
            with contextlib.suppress(BlockingIOError):
                while connection.recv(4096):
                    pass
                return False
            connection.send(b"a")
        except OSError:
            return False
        return True


def memory_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def beginnings(identity: Identity) -> list[bytes]:
    """Heads that never end, bodies of strangers, and bodies that a device was refused."""
    enrol = b"POST /v1/enrol HTTP/1.1\r\nHost: s\r\nContent-Length: 16384\r\n\r\n"
    target = f"/v1/rounds/{'e' * 32}/update?offset=0&size=1000000&digest={'0' * 64}"
    found = []
    for number in range(SLOW):
        headers = sign_request(identity.key, identity.device_id, "PUT", target, b"", time.time())
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        update = f"PUT {target} HTTP/1.1\r\nHost: s\r\nContent-Length: 1000000\r\n{lines}\r\n".encode()
        found.append((b"GET /v1/status HTTP/1.1\r\nX: ", enrol, update)[number % 3])
    return found


@pytest.mark.slow
def test_hundreds_of_slow_clients_are_cut_off_and_nobody_else_notices(folder: Path, tmp_path: Path) -> None:
    with process(tmp_path / "server.log", "server", "run", folder, "--port", "0") as running:
        address = address_in(tmp_path / "server.log")
        tokens = make_tokens(folder, 4)
        identity = enrol_device(address, tokens.pop(), tmp_path / "device", "device")
        client = ServerClient.of(identity)
        client.download(client.latest(), tmp_path / "partial")
        before = memory_mib(running.pid)
        slow = SlowClients(address, beginnings(identity))
        slow.start()
        end, most, slowest = time.monotonic() + PATIENCE_S, 0.0, 0.0
        try:
            while slow.connections and time.monotonic() < end:
                begin = time.monotonic()
                client.latest()
                if tokens:
                    enrol_device(address, tokens.pop(), tmp_path / f"another{len(tokens)}", "another")
                slowest = max(slowest, time.monotonic() - begin)
                most = max(most, memory_mib(running.pid) - before)
                time.sleep(0.25)
        finally:
            slow.done.set()
            slow.join()
            client.close()
        assert slow.cut_off == SLOW
        assert slowest < 5, "a device had to wait"
        assert most < GROWTH_MIB
        assert httpx.get(f"{address}/v1/status").json()["devices"]["enrolled"] == 4
