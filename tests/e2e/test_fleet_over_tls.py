"""A server that others can connect to, as a user starts it: https, pinned by the token."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from emberfleet.agent.client import ServerClient, enrol_device
from emberfleet.agent.identity import Identity
from emberfleet.server.fleet import make_tokens
from emberfleet.server.tls import pin_of_file
from tests.e2e.test_fleet_commands import address_in, ember, folder, process

__all__ = ["folder"]


@pytest.mark.slow
def test_a_device_enrols_over_https_and_changes_its_key(folder: Path, tmp_path: Path) -> None:
    log, device = tmp_path / "server.log", tmp_path / "device"
    run = ("server", "run", folder, "--host", "0.0.0.0", "--port", "0")
    with process(log, *run):
        address = address_in(log).replace("0.0.0.0", "127.0.0.1")
        assert address.startswith("https://")
        [token] = json.loads(ember("server", "token", folder, "--json"))["tokens"]
        pin = ember("server", "pin", folder).strip()
        assert token.endswith(f".{pin}")
        assert (folder / "tls.pem").stat().st_mode & 0o777 == 0o600
        ember("device", "enrol", device, "--server", address, "--token", token)
        before = Identity.load(device)
        assert before.pin == pin
        ember("device", "rotate-key", device)
        after = Identity.load(device)
        assert after.device_id != before.device_id
        client = ServerClient.of(after)
        assert client.latest().version == 1
        client.close()
        ember("device", "pin", device, "A" * 43)
        assert "another certificate" in ember(
            "device", "run", device, "--once", "--backend", "numpy", expect=2
        )


@pytest.mark.slow
def test_a_client_that_never_finishes_its_handshake_blocks_nobody(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with process(log, "server", "run", folder, "--tls", "--port", "0"):
        address = address_in(log)
        host, port = address.removeprefix("https://").split(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(50)]
        [token] = make_tokens(folder, pin=pin_of_file(folder / "tls.pem"))
        begin = time.monotonic()
        enrol_device(address, token, tmp_path / "device", "kitchen")
        assert time.monotonic() - begin < 5
        for connection in silent:
            connection.close()
