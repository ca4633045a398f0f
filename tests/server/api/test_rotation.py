"""A device changes its key over real HTTP: at every moment it holds one that the server knows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from emberfleet.agent.client import Backoff, ServerClient, UnreachableError
from emberfleet.agent.identity import Identity
from emberfleet.agent.rotation import NEXT_KEY_FILE, finish_rotation, rotate_key
from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.offers import Mode
from emberfleet.core.requests import sign_request
from emberfleet.core.rotation import KeyChange
from emberfleet.core.signing import SigningKey
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.storage.database import Database
from tests.fleet import RunningServer, Target, serve

PLAN = RoundPlan(mode=Mode.SEALED, cohort=2, minimum=2, deadline_s=300, lease_s=0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serve(tmp_path_factory.mktemp("fleet") / "server", PLAN, rounds=0) as running:
        yield running


@pytest.fixture
def folder(server: RunningServer, tmp_path: Path) -> Path:
    """An enrolled device's folder."""
    server.device(tmp_path / "device", Target(0.0)).close()
    return tmp_path / "device"


class Losing(httpx.HTTPTransport):
    """Loses every request, before or after the server did what it asks."""

    def __init__(self, after: bool) -> None:
        super().__init__()
        self.after = after

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self.after:
            super().handle_request(request).close()
        raise httpx.ReadError("lost")


def speaks(identity: Identity) -> bool:
    client = ServerClient.of(identity)
    try:
        return client.latest().version == 1
    except RefusedError as error:
        return error.reason is not Reason.REVOKED
    finally:
        client.close()


def reason_of(client: ServerClient, new: SigningKey) -> Reason:
    with pytest.raises(RefusedError) as caught:
        client.change_key(new)
    return caught.value.reason


def database_of(server: RunningServer) -> Database:
    return Database.in_file(server.folder / "fleet.db")


def test_the_new_key_speaks_and_the_old_one_no_longer_does(server: RunningServer, folder: Path) -> None:
    old = Identity.load(folder)
    new = rotate_key(folder)
    assert new.device_id != old.device_id
    assert Identity.load(folder).device_id == new.device_id
    assert speaks(new)
    assert not speaks(old)
    assert not (folder / NEXT_KEY_FILE).exists()
    assert (folder / "device.key").stat().st_mode & 0o777 == 0o600
    database = database_of(server)
    row = database.device(old.device_id)
    database.close()
    assert row is not None
    assert row.replaced_by == new.device_id
    assert speaks(rotate_key(folder))


@pytest.mark.parametrize("after", [False, True])
def test_a_lost_request_or_answer_leaves_a_device_that_finishes_later(folder: Path, after: bool) -> None:
    old = Identity.load(folder)

    def losing(identity: Identity) -> ServerClient:
        return ServerClient(
            identity.server, identity.key, identity.device_id, Backoff(2, 0.001), transport=Losing(after)
        )

    with pytest.raises(UnreachableError):
        rotate_key(folder, losing)
    assert Identity.load(folder).device_id == old.device_id
    assert speaks(old) is not after
    finish_rotation(folder)
    new = Identity.load(folder)
    assert new.device_id != old.device_id
    assert speaks(new)
    finish_rotation(folder)
    assert Identity.load(folder).device_id == new.device_id


def test_a_device_stopped_right_after_it_took_the_new_key_knows_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Identity.load(folder)

    def stop(identity: Identity, folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Identity, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            rotate_key(folder)
    found = Identity.load(folder)
    assert found.device_id != old.device_id
    assert speaks(found)


def test_the_same_change_again_is_answered_and_another_one_is_not(folder: Path) -> None:
    client = ServerClient.of(Identity.load(folder))
    new = SigningKey.generate()
    first = client.change_key(new)
    assert client.change_key(new) == first
    assert reason_of(client, SigningKey.generate()) is Reason.REVOKED
    client.close()


def test_nobody_takes_over_a_key_that_is_not_theirs(
    server: RunningServer, folder: Path, tmp_path: Path
) -> None:
    client = ServerClient.of(Identity.load(folder))
    other = server.device(tmp_path / "other", Target(0.0))
    other.close()
    assert reason_of(client, other.identity.key) is Reason.BAD_TOKEN
    client.close()
    for change in (
        KeyChange.make("a" * 32, SigningKey.generate()),
        replace(KeyChange.make(other.identity.device_id, SigningKey.generate()), proof=bytes(64)),
        replace(
            KeyChange.make(other.identity.device_id, SigningKey.generate()),
            public_key=SigningKey.generate().verify_key.raw,
        ),
    ):
        body, target = change.encode(), "/v1/devices/key"
        identity = other.identity
        headers = sign_request(identity.key, identity.device_id, "POST", target, body, time.time())
        answer = httpx.post(server.address + target, content=body, headers=headers)
        assert (answer.status_code, answer.json()["reason"]) == (401, "bad_signature")
    assert speaks(other.identity)


def test_a_device_shut_out_by_any_of_its_names_is_shut_out(server: RunningServer, folder: Path) -> None:
    old = Identity.load(folder)
    new = rotate_key(folder)
    database = database_of(server)
    assert database.revoke(old.device_id, time.time())
    database.close()
    assert not speaks(new)
    client = ServerClient.of(old)
    assert reason_of(client, SigningKey.generate()) is Reason.REVOKED
    client.close()


def test_a_revocation_counts_inside_a_held_back_answer_and_a_key_does_not_change_in_a_round(
    tmp_path: Path,
) -> None:
    with serve(tmp_path / "server", PLAN) as server:
        agents = [server.device(tmp_path / f"device{n}", Target(0.0)) for n in range(3)]
        answers: dict[int, object] = {}

        def ask(number: int) -> None:
            client = ServerClient.of(agents[number].identity)
            try:
                answers[number] = client.ask_work(1, wait_s=3)
            except RefusedError as error:
                answers[number] = error.reason
            finally:
                client.close()

        waiting = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
        waiting[0].start()
        while server.status()["present"] != 1:
            time.sleep(0.01)
        database = database_of(server)
        assert database.revoke(agents[0].identity.device_id, time.time())
        database.close()
        for thread in waiting[1:]:
            thread.start()
        for thread in waiting:
            thread.join()
        assert answers[0] is Reason.REVOKED
        assert all(getattr(answers[number], "offer", None) for number in (1, 2))
        folder = tmp_path / "device1"
        before = Identity.load(folder)
        with pytest.raises(RefusedError) as caught:
            rotate_key(folder)
        assert caught.value.reason is Reason.IN_ROUND
        finish_rotation(folder)
        assert Identity.load(folder).device_id == before.device_id
        assert speaks(before)
        for agent in agents:
            agent.close()
