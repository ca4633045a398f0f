"""A disk that fills up in the middle of rounds refuses what is new, and spoils nothing.

The disk is full for the server's process alone: the operating system refuses it every write that would make
a file longer, as it does on a full disk.
"""

from __future__ import annotations

import resource
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from emberfleet.agent.client import Backoff, ServerClient
from emberfleet.agent.identity import Identity
from emberfleet.core.messages import WorkReply
from emberfleet.core.requests import sign_request
from tests.faults.dying_server import MortalServer
from tests.faults.marked_fleet import MarkedFleet, folder_of, marked_plan

DEVICES = 4


def fill_disk(server: MortalServer, full: bool) -> None:
    assert server._process is not None
    assert server._process.pid is not None
    _, hard = resource.prlimit(server._process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server._process.pid, resource.RLIMIT_FSIZE, (0 if full else hard, hard))


@pytest.fixture
def fleet(tmp_path: Path) -> MarkedFleet:
    plan = marked_plan(cohort=DEVICES, minimum=3, pool_wait_s=10.0, lease_s=20.0, deadline_s=60.0)
    made = MarkedFleet(tmp_path / "fleet", DEVICES, plan)
    assert made.server.start()
    made.enrol()
    return made


def client_of(identity: Identity) -> ServerClient:
    return ServerClient(identity.server, identity.key, identity.device_id, backoff=Backoff(1, 0.01, 0.01))


def test_while_the_disk_is_full_the_model_is_served_and_rounds_wait(
    fleet: MarkedFleet, tmp_path: Path
) -> None:
    asking = client_of(Identity.load(folder_of(fleet.root, 0)))
    with closing(asking), fleet.at_work():
        fleet.wait_for_rounds(1, 30)
        for number in range(3):
            fill_disk(fleet.server, full=True)
            begin = time.monotonic()
            while time.monotonic() - begin < 0.6:
                status = httpx.get(f"{fleet.server.address}/v1/status")
                assert status.status_code == 200
                info = asking.latest()
                assert len(asking.download(info, tmp_path / f"bundle{number}")) == info.size_bytes
            over = len(fleet.over())
            fill_disk(fleet.server, full=False)
            fleet.wait_for_rounds(over + 1, 30)
        fleet.server.stop()
    assert fleet.check_models() >= 4
    assert not [row.failure for row in fleet.rows() if row.phase == "failed"]
    with closing(sqlite3.connect(fleet.root / "server" / "fleet.db")) as beside:
        assert beside.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_what_cannot_be_stored_is_refused_as_such(fleet: MarkedFleet) -> None:
    """Until there is room: the same request, signed anew, is then taken."""
    identities = [Identity.load(folder_of(fleet.root, index)) for index in range(DEVICES)]
    with ThreadPoolExecutor(DEVICES) as threads:
        replies = list(threads.map(lambda identity: _ask_work(identity), identities))
    assert all(reply.offer for reply in replies)
    round_ = fleet.rows()[-1]
    assert round_.phase == "keys"
    target = f"/v1/rounds/{round_.id}/decline"

    def decline() -> httpx.Response:
        one = identities[0]
        headers = sign_request(one.key, one.device_id, "POST", target, b"", time.time())
        return httpx.post(fleet.server.address + target, headers=headers)

    fill_disk(fleet.server, full=True)
    statuses = {decline().status_code for _ in range(3)}
    assert statuses == {507}
    fill_disk(fleet.server, full=False)
    assert decline().status_code == 204
    fleet.server.stop()


def _ask_work(identity: Identity) -> WorkReply:
    with closing(client_of(identity)) as asking:
        return asking.ask_work(1, 20)
