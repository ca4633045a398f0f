"""Somebody between the server and a device shows another list of models than the server signed.

The server is the real one on loopback and the device the real agent. In between stands an attacker on the
wire (there is no TLS here), who answers from a tampered copy of the repository.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from emberfleet.agent.agent import Agent, Outcome
from emberfleet.agent.client import Backoff, ServerClient, UnreachableError, enrol_device
from emberfleet.agent.identity import Identity, accept_reply
from emberfleet.agent.releases import FrozenError, RollbackError
from emberfleet.core.errors import EmberError, EnrolmentError, FormatError, SignatureError
from emberfleet.core.messages import EnrolReply
from emberfleet.core.offers import Mode
from emberfleet.core.releases import MAX_METADATA_BYTES, Release
from emberfleet.core.signing import SigningKey
from emberfleet.core.tokens import Token
from emberfleet.server.fleet import make_tokens
from emberfleet.server.registry.models import describe_bundle
from emberfleet.server.registry.policy import ReleasePolicy
from emberfleet.server.registry.repository import Repository
from emberfleet.server.releasing import open_registry
from emberfleet.server.rounds.plan import RoundPlan
from tests.fleet import RunningServer, Target, make_bundle, open_bundle, serve, small_model

PLAN = RoundPlan(mode=Mode.SEALED, minimum=2, cohort=2)
DAY_S = 24 * 3600


@dataclass
class Attacker(httpx.BaseTransport):
    """Passes requests on, but answers from a copy of the repository, and other paths as told."""

    copy: Path | None = None
    answers: dict[str, Callable[[httpx.Response], httpx.Response]] = field(default_factory=dict)
    sent: int = 0
    real: httpx.HTTPTransport = field(default_factory=httpx.HTTPTransport)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path in self.answers:
            response = self.real.handle_request(request)
            response.read()
            return self.answers[path](response)
        if self.copy is not None and path.startswith("/v1/tuf/"):
            file = self.copy / path.removeprefix("/v1/tuf/")
            if file.exists():
                return httpx.Response(200, content=file.read_bytes())
            return httpx.Response(404, content=b'{"reason":"not_found","error":"none","advice":""}')
        return self.real.handle_request(request)

    def endless(self, _response: httpx.Response) -> httpx.Response:
        def stream() -> Iterator[bytes]:
            while True:
                self.sent += 1 << 14
                yield b" " * (1 << 14)

        return httpx.Response(200, content=stream())

    def dripping(self, _response: httpx.Response) -> httpx.Response:
        def stream() -> Iterator[bytes]:
            for _ in range(1000):
                time.sleep(0.02)
                yield b" "

        return httpx.Response(200, content=stream())

    def close(self) -> None:
        self.real.close()


@dataclass
class Scene:
    """A server, a device that has model 1, and the attacker between them."""

    server: RunningServer
    device: Agent
    client: ServerClient
    attacker: Attacker
    folder: Path

    def publish(self, version: int) -> None:
        """The server's owner publishes a model."""
        key = self.server.key
        with open_registry(self.server.folder, lambda data: open_bundle(data, (key.verify_key,))) as registry:
            registry.import_bundle(make_bundle(small_model(float(version)), version, key), time.time())
        end = time.monotonic() + 10
        while self.client.latest().version != version:
            assert time.monotonic() < end, "the running server does not follow"
            time.sleep(0.02)

    def copy(self, name: str) -> Path:
        """What the attacker has seen of the repository."""
        return Path(shutil.copytree(self.server.folder / "tuf", self.folder / name))

    def signed_with(self, keys: Path, releases: list[Release], now: float, name: str) -> Path:
        """A repository that continues the server's, signed with the keys in a folder."""
        there = self.folder / name
        shutil.copytree(self.server.folder / "tuf", there / "tuf")
        for path in keys.glob("*.key"):
            shutil.copy(path, there)
        assert Repository(there, ReleasePolicy()).bring_in_line(releases, now)
        return there / "tuf"

    def refused(self, kind: type[EmberError], text: str) -> None:
        """The device takes nothing from the attacker; once alone with the server, it goes on."""
        before = self.device.models.state()
        with pytest.raises(kind, match=text):
            self.device.run_once(wait_s=0)
        assert self.device.models.state() == before
        self.attacker.copy = None
        self.attacker.answers.clear()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with serve(tmp_path / "server", PLAN, rounds=0) as server:
        token = make_tokens(server.folder)[0]
        identity = enrol_device(server.address, token, tmp_path / "device", "victim", allow_sealed=True)
        attacker = Attacker()
        client = ServerClient(
            identity.server, identity.key, identity.device_id, Backoff(2, 0.01, 0.02), transport=attacker
        )
        device = Agent(
            tmp_path / "device",
            Target(0.0, trusted=identity.trusted),
            lambda data: open_bundle(data, identity.trusted).version,
            client=client,
        )
        try:
            assert device.fetch_model()
            assert device.models.version() == 1
            yield Scene(server, device, client, attacker, tmp_path)
        finally:
            device.close()


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the signed part of a metadata file and leave the signatures as they are."""
    value = json.loads(path.read_bytes())
    change(value["signed"])
    path.write_text(json.dumps(value, separators=(",", ":")))


def test_a_rolled_back_repository_is_noticed(scene: Scene) -> None:
    old = scene.copy("old")
    scene.publish(2)
    assert scene.device.fetch_model(hint=2)
    scene.attacker.copy = old
    scene.publish(3)
    scene.refused(RollbackError, "older list of models than this device has seen")
    assert scene.device.run_once(wait_s=0).outcome is Outcome.NEW_MODEL
    assert scene.device.models.version() == 3


def test_a_device_that_lost_its_memory_of_lists_never_installs_a_lower_version(scene: Scene) -> None:
    old = scene.copy("old")
    scene.publish(2)
    assert scene.device.fetch_model(hint=2)
    shutil.rmtree(scene.folder / "device" / "tuf")
    scene.attacker.copy = old
    assert not scene.device.fetch_model(hint=9)
    assert scene.device.models.version() == 2


def test_a_frozen_repository_is_noticed_when_its_timestamp_runs_out(scene: Scene) -> None:
    frozen = scene.signed_with(
        scene.server.folder, [Release(1, "0" * 64, 1, 0)], time.time() - DAY_S + 1.5, "frozen"
    )
    scene.publish(2)
    scene.attacker.copy = frozen
    assert not scene.device.fetch_model(hint=2), "still within the time that the server vouched for"
    time.sleep(2.0)
    scene.refused(FrozenError, "has run out")


def test_a_device_without_hints_looks_for_itself_when_its_timestamp_runs_out(scene: Scene) -> None:
    short = scene.signed_with(
        scene.server.folder, [Release(1, "0" * 64, 1, 0)], time.time() - DAY_S + 1.5, "short"
    )
    scene.attacker.copy = short
    assert not scene.device.fetch_model(hint=2)
    scene.publish(2)
    scene.attacker.answers["/v1/work"] = lambda response: httpx.Response(
        200, content=response.content.replace(b'"version":2', b'"version":1')
    )
    assert scene.device.run_once(wait_s=0).outcome is Outcome.IDLE
    time.sleep(2.0)
    scene.refused(FrozenError, "has run out")


def test_a_new_snapshot_with_an_old_list_is_noticed(scene: Scene) -> None:
    scene.publish(2)
    scene.publish(3)
    mixed = scene.copy("mixed")
    shutil.copy(mixed / "2.targets.json", mixed / "3.targets.json")
    scene.attacker.copy = mixed
    scene.refused(SignatureError, "not what the server's root signed")


def test_a_new_timestamp_with_an_old_snapshot_is_noticed(scene: Scene) -> None:
    scene.publish(2)
    scene.publish(3)
    mixed = scene.copy("mixed")
    shutil.copy(mixed / "2.snapshot.json", mixed / "3.snapshot.json")
    scene.attacker.copy = mixed
    scene.refused(SignatureError, "not what the server's root signed")


@pytest.mark.parametrize("name", ["timestamp.json", "2.root.json", "2.snapshot.json", "2.targets.json"])
def test_endless_metadata_is_cut_off(scene: Scene, name: str) -> None:
    scene.publish(2)
    scene.attacker.answers[f"/v1/tuf/{name}"] = scene.attacker.endless
    scene.refused(FormatError, "larger than")
    assert 0 < scene.attacker.sent <= MAX_METADATA_BYTES + (1 << 15)


def test_metadata_that_drips_is_given_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emberfleet.agent.client.REPLY_TIMEOUT_S", 0.2)
    scene.publish(2)
    scene.attacker.answers["/v1/tuf/timestamp.json"] = scene.attacker.dripping
    begin = time.monotonic()
    scene.refused(UnreachableError, "did not answer")
    assert time.monotonic() - begin < 10


def test_an_endless_bundle_is_cut_off(scene: Scene) -> None:
    scene.publish(2)
    size = (scene.server.folder / "models" / "000002.ember").stat().st_size
    scene.attacker.answers["/v1/models/2/bundle"] = scene.attacker.endless
    scene.refused(FormatError, "more than")
    assert scene.attacker.sent <= size + (1 << 15)
    assert scene.device.fetch_model(hint=2)


def test_a_bundle_of_another_hash_is_refused_though_its_own_signature_is_good(scene: Scene) -> None:
    scene.publish(2)
    path = scene.server.folder / "models" / "000002.ember"
    listed = path.read_bytes()
    other = make_bundle(small_model(7.0), 2, scene.server.key)
    assert len(other) == len(listed)
    path.write_bytes(other)
    scene.refused(FormatError, "digest is not the one")
    path.write_bytes(listed)
    assert scene.device.fetch_model(hint=2)


def test_a_bundle_that_is_listed_and_signed_by_nobody_trusted_is_refused(scene: Scene) -> None:
    data = make_bundle(small_model(7.0), 2, SigningKey.generate())
    info = describe_bundle(2, data)
    listed = [Release(2, info.digest, info.size_bytes)]
    scene.attacker.copy = scene.signed_with(scene.server.folder, listed, time.time(), "untrusted")
    scene.attacker.answers["/v1/models/2/bundle"] = lambda _response: httpx.Response(200, content=data)
    before = scene.device.models.state()
    with pytest.raises(SignatureError, match="does not verify"):
        scene.device.fetch_model(hint=2)
    assert scene.device.models.state() == before


def reach_more(signed: dict[str, Any]) -> None:
    signed["targets"]["models/000002.ember"]["custom"]["rollout_percent"] = 999


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("2.targets.json", reach_more),
        ("2.targets.json", lambda signed: signed.update(version=9)),
        ("2.snapshot.json", lambda signed: signed["meta"]["targets.json"].update(version=1)),
        ("timestamp.json", lambda signed: signed.update(expires="2999-01-01T00:00:00Z")),
    ],
)
def test_a_changed_word_in_any_file_is_noticed(
    scene: Scene, name: str, change: Callable[[dict[str, Any]], None]
) -> None:
    scene.publish(2)
    tampered = scene.copy("tampered")
    edit(tampered / name, change)
    scene.attacker.copy = tampered
    scene.refused(SignatureError, "not what the server's root signed")


def test_a_repository_of_the_attackers_own_is_refused(scene: Scene) -> None:
    theirs = scene.folder / "theirs"
    theirs.mkdir()
    repository = Repository(theirs, ReleasePolicy())
    repository.make(time.time())
    repository.bring_in_line([Release(9, "0" * 64, 10)], time.time())
    scene.publish(2)
    scene.attacker.copy = theirs / "tuf"
    scene.refused(SignatureError, "not what the server's root signed")


def test_a_root_that_the_attacker_signed_is_refused(scene: Scene) -> None:
    theirs = scene.folder / "theirs"
    theirs.mkdir()
    repository = Repository(theirs, ReleasePolicy())
    repository.make(time.time())
    repository.renew_root(SigningKey.load(theirs / "root.key"), time.time())
    repository.bring_in_line([Release(9, "0" * 64, 10)], time.time())
    scene.publish(2)
    scene.attacker.copy = theirs / "tuf"
    assert (theirs / "tuf" / "2.root.json").exists()
    scene.refused(SignatureError, "not what the server's root signed")


def test_the_timestamps_key_cannot_sign_a_list(scene: Scene) -> None:
    keys = scene.folder / "keys"
    keys.mkdir()
    for role in ("root", "targets", "snapshot", "timestamp"):
        shutil.copy(scene.server.folder / "timestamp.key", keys / f"{role}.key")
    scene.attacker.copy = scene.signed_with(keys, [Release(9, "0" * 64, 10)], time.time(), "confused")
    before = scene.device.models.state()
    with pytest.raises(SignatureError, match="not what the server's root signed"):
        scene.device.fetch_model(hint=9)
    assert scene.device.models.state() == before


@pytest.mark.parametrize(
    "release",
    [
        Release(2, "0" * 64, 1 << 40),
        Release(2, "not a digest", 10),
        Release(2, "0" * 64, 10, rollout_percent=1000),
    ],
)
def test_a_signed_list_that_makes_no_sense_installs_nothing(scene: Scene, release: Release) -> None:
    scene.attacker.copy = scene.signed_with(scene.server.folder, [release], time.time(), "senseless")
    before = scene.device.models.state()
    with pytest.raises(FormatError, match="models/000002"):
        scene.device.fetch_model(hint=2)
    assert scene.device.models.state() == before


def test_a_name_that_leads_outside_is_no_release() -> None:
    custom = {"version": 2, "rollout_percent": 100, "from_round": 0}
    for path in ("../../etc/passwd", "models/../000002.ember", "/models/000002.ember", "models/2.ember"):
        with pytest.raises(FormatError, match=r"expected models/000002\.ember"):
            Release.from_target(path, 10, {"sha256": "0" * 64}, custom)


@pytest.mark.parametrize("spoken_of", [1, 3, 900])
def test_what_the_server_says_unsigned_moves_a_device_nowhere(scene: Scene, spoken_of: int) -> None:
    scene.publish(2)
    assert scene.device.fetch_model(hint=2)
    scene.attacker.answers["/v1/work"] = lambda response: httpx.Response(
        200, content=response.content.replace(b'"version":2', f'"version":{spoken_of}'.encode())
    )
    turn = scene.device.run_once(wait_s=0)
    assert (turn.outcome, turn.model_version) == (Outcome.IDLE, 2)
    assert bool(turn.text) == (spoken_of > 2)


def test_a_swapped_root_at_enrolment_does_not_match_the_token(scene: Scene, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    repository = Repository(theirs, ReleasePolicy())
    repository.make(time.time())
    identity = Identity.load(tmp_path / "device")
    token = Token.parse(make_tokens(scene.server.folder)[0])
    honest = EnrolReply(identity.device_id, identity.server_key, identity.bundle_keys, identity.root)
    assert accept_reply(scene.server.address, "victim", token, identity.key, honest).root == identity.root
    swapped = replace(honest, root=repository.first_root())
    with pytest.raises(EnrolmentError, match="not the server"):
        accept_reply(scene.server.address, "victim", token, identity.key, swapped)
