"""A disk that is really full, or turns read-only, under rounds at work; then `kill -9`, and room again.

In `test_full_disk` a limit of the operating system on one process stands for a full disk. Here the disk
itself is full, which hits mapped files too, and the server is started again, also before there is room.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from emberfleet.agent.client import Backoff, ServerClient
from emberfleet.agent.identity import Identity
from tests.faults.marked_fleet import MarkedFleet, folder_of, marked_plan
from tests.faults.read_only import PERMITTED

DEVICES = 4
DISK_BYTES = 4 << 20
MOMENTS = (("secure", "keys"), ("secure", "update"), ("secure", "confirmation"), ("sealed", "update"))
"""A mode, and the message that finds no room."""
PHASE_OF = {"keys": "keys", "update": "collect", "confirmation": "confirm"}


class Held(httpx.HTTPTransport):
    """Holds one kind of message back until it is let go, and counts the answers to what is sent."""

    def __init__(self, word: str, let_go: threading.Event, seen: Counter[int]) -> None:
        super().__init__()
        self._word, self._let_go, self._seen = word, let_go, seen

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Pass a request on, in its time."""
        if request.method == "GET":
            return super().handle_request(request)
        if request.url.path.endswith(self._word):
            assert self._let_go.wait(60)
        response = super().handle_request(request)
        self._seen[response.status_code] += 1
        return response


def fleet_in(folder: Path, mode: str) -> MarkedFleet:
    plan = marked_plan(
        mode=mode, cohort=DEVICES, minimum=3, pool_wait_s=10.0, keys_s=60.0, shares_s=60.0, deadline_s=60.0,
        confirm_s=60.0, unmask_s=60.0, lease_s=40.0, presence_s=10.0,
    )  # fmt: skip
    made = MarkedFleet(folder, DEVICES, plan)
    assert made.server.start()
    made.enrol()
    return made


@contextlib.contextmanager
def refused(fleet: MarkedFleet, word: str, spoil: Callable[[], object]) -> Iterator[None]:
    """All devices at work; the disk is spoilt before they send this message, and all are refused."""
    let_go, seen = threading.Event(), Counter[int]()
    transports = {index: Held(word, let_go, seen) for index in range(DEVICES)}
    with fleet.at_work(transports=transports):
        fleet.wait_until(lambda: any(row.phase == PHASE_OF[word] for row in fleet.rows()), 30)
        spoil()
        let_go.set()
        fleet.wait_until(lambda: seen[507] >= DEVICES, 30)
        yield
    assert set(seen) <= {200, 202, 204, 409, 410, 507}, seen


def check_the_model_is_served(fleet: MarkedFleet, beside: Path) -> None:
    """The status and the newest bundle are there for whoever asks, again and again."""
    identity = Identity.load(folder_of(fleet.root, 0))
    client = ServerClient(identity.server, identity.key, identity.device_id, backoff=Backoff(1, 0.01, 0.01))
    with closing(client):
        for _ in range(5):
            assert httpx.get(f"{fleet.server.address}/v1/status").status_code == 200
            info = client.latest()
            assert len(client.download(info, beside / "bundle")) == info.size_bytes


def check_it_goes_on(fleet: MarkedFleet) -> None:
    """Started again, the server ends the round that was at hand, and another one."""
    assert not fleet.over()
    assert fleet.server.start()
    fleet.wait_for_rounds(2, 60)
    fleet.server.stop()


def check_nothing_is_spoilt(fleet: MarkedFleet) -> None:
    """No round failed, each device counts once, the database is whole, and no piece of a file is left."""
    assert not [row.failure for row in fleet.rows() if row.phase == "failed"]
    assert fleet.check_models() >= 2
    server = fleet.root / "server"
    with closing(sqlite3.connect(server / "fleet.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    bundles = sorted(path.name for path in (server / "models").iterdir())
    assert bundles == [f"{version:06d}.ember" for version in range(1, len(bundles) + 1)]
    running = {row.id for row in fleet.rows() if row.phase not in ("done", "failed")}
    assert {path.name for path in (server / "rounds").iterdir()} <= running


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A fleet's folder in which that of the server is a file system of its own, with little room."""
    folder = tmp_path / "fleet" / "server"
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here; test_full_disk needs none")
    yield folder.parent
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(ballast: Path) -> None:
    """Write until no byte is left."""
    with ballast.open("ab", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))


@pytest.mark.parametrize(("mode", "word"), MOMENTS)
def test_a_full_disk_refuses_what_is_sent_and_room_lets_the_round_go_on(
    mode: str, word: str, small_disk: Path, tmp_path: Path
) -> None:
    fleet = fleet_in(small_disk, mode)
    ballast = small_disk / "server" / "ballast"
    with refused(fleet, word, lambda: fill(ballast)):
        check_the_model_is_served(fleet, tmp_path)
        fleet.server.kill()
        assert fleet.server.start()
        check_the_model_is_served(fleet, tmp_path)
        fleet.server.kill()
        ballast.unlink()
        check_it_goes_on(fleet)
    check_nothing_is_spoilt(fleet)


@pytest.mark.skipif(not PERMITTED, reason="the filter of system calls is written for Linux on x86-64")
@pytest.mark.parametrize(("mode", "word"), MOMENTS)
def test_a_read_only_disk_refuses_what_is_sent_and_a_restart_goes_on(
    mode: str, word: str, tmp_path: Path
) -> None:
    fleet = fleet_in(tmp_path / "fleet", mode)
    with refused(fleet, word, lambda: os.kill(fleet.server.pid, signal.SIGUSR1)):
        check_the_model_is_served(fleet, tmp_path)
        fleet.server.kill()
        check_it_goes_on(fleet)
    check_nothing_is_spoilt(fleet)
