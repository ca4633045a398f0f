"""Models on their way from a real server to real devices: rollouts, rollbacks, and devices that go back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest

from emberfleet.agent.agent import Agent, Outcome
from emberfleet.agent.client import Backoff, ServerClient, UnreachableError, enrol_device
from emberfleet.agent.judging import Evaluate
from emberfleet.core.arrays import Int64, UInt8
from emberfleet.core.messages import ModelReport
from emberfleet.core.releases import Release
from emberfleet.server.fleet import make_tokens
from emberfleet.server.releasing import open_registry, roll_back
from emberfleet.server.rounds.plan import RoundPlan
from tests.fleet import RunningServer, Target, make_bundle, open_bundle, serve, small_model

PLAN = RoundPlan(cohort=50, minimum=50, pool_wait_s=1000.0)


class Deaf(ServerClient):
    """A client whose reports get lost while `lost` is set."""

    lost = False

    def report(self, version: int, report: ModelReport) -> None:
        if Deaf.lost:
            raise UnreachableError("nobody answers")
        super().report(version, report)


@dataclass
class Owner:
    """The server and what its owner does beside it."""

    server: RunningServer
    folder: Path
    agents: list[Agent] = field(default_factory=list)

    def publish(self, version: int, percent: int = 100) -> None:
        key = self.server.key
        with open_registry(self.server.folder, lambda data: open_bundle(data, (key.verify_key,))) as found:
            found.import_bundle(make_bundle(small_model(float(version)), version, key), time.time())
            if percent != 100:
                found.set_rollout(version, percent, time.time())

    def rollout(self, version: int, percent: int) -> None:
        with open_registry(self.server.folder) as found:
            found.set_rollout(version, percent, time.time())

    def device(
        self,
        accuracy: Mapping[float, float] | None = None,
        on_model: Callable[[Path], None] | None = None,
    ) -> Agent:
        """A device with 20 held-out samples; `accuracy` of a model by the value of its tensors."""
        name = f"device{len(self.agents)}"
        identity = enrol_device(
            self.server.address,
            make_tokens(self.server.folder)[0],
            self.folder / name,
            name,
            allow_sealed=True,
        )

        def evaluate(bundle: Path, images: UInt8, labels: Int64) -> int:
            assert accuracy is not None
            tensors = open_bundle(bundle.read_bytes(), identity.trusted).tensors
            return round(accuracy[float(tensors["conv/bias"][0])] * len(labels))

        judge: Evaluate | None = None if accuracy is None else evaluate
        made = Agent(
            self.folder / name,
            Target(0.0, trusted=identity.trusted),
            lambda data: open_bundle(data, identity.trusted).version,
            client=Deaf(identity.server, identity.key, identity.device_id, Backoff(2, 0.01, 0.02)),
            on_model=on_model,
            held_out=0.5,
            evaluate=judge,
        )
        generator = np.random.default_rng(len(self.agents))
        images = generator.integers(0, 256, (40, 4, 4, 1)).astype(np.uint8)
        made.samples.add(images, np.zeros(40, np.int64))
        self.agents.append(made)
        return made

    def reports(self, version: int) -> tuple[int, int, int]:
        """Reports, bad ones and percent, as anybody reads them in the status."""
        (row,) = [row for row in self.server.status()["models"] if row["version"] == version]
        return row["reports"], row["bad"], row["rollout_percent"]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    Deaf.lost = False
    with serve(tmp_path / "server", PLAN, rounds=0) as server:
        made = Owner(server, tmp_path)
        yield made
        for agent in made.agents:
            agent.close()


def value(path: Path | None, agent: Agent) -> float:
    assert path is not None
    return float(open_bundle(path.read_bytes(), agent.identity.trusted).tensors["conv/bias"][0])


def test_a_staged_rollout_reaches_its_share_and_then_the_rest(owner: Owner) -> None:
    agents = [owner.device() for _ in range(8)]
    for agent in agents:
        assert agent.fetch_model()
    owner.publish(2, percent=50)
    for agent in agents:
        agent.fetch_model(hint=2)
    release = Release(2, "0" * 64, 1, 50)
    expected = [1 + release.reaches(agent.identity.device_id) for agent in agents]
    assert [agent.models.version() for agent in agents] == expected
    owner.rollout(2, 100)
    for agent in agents:
        agent.fetch_model(hint=2)
    assert [agent.models.version() for agent in agents] == [2] * 8


def test_a_device_that_waits_is_told_as_soon_as_a_rollout_reaches_it(owner: Owner) -> None:
    agent = owner.device()
    assert agent.fetch_model()
    owner.publish(2, percent=0)
    begin = time.monotonic()
    assert agent.run_once(wait_s=1).outcome is Outcome.IDLE
    assert time.monotonic() - begin >= 0.9, "a device outside the share is held back, not sent round"
    timer = threading.Timer(0.3, owner.rollout, (2, 100))
    timer.start()
    begin = time.monotonic()
    assert agent.run_once(wait_s=20).outcome is Outcome.NEW_MODEL
    assert time.monotonic() - begin < 10
    timer.join()
    assert agent.models.version() == 2


def test_a_rollback_reaches_devices_as_a_newer_version(owner: Owner) -> None:
    agent = owner.device()
    owner.publish(2)
    assert agent.fetch_model()
    key = owner.server.key
    info = roll_back(
        owner.server.folder,
        1,
        opener=lambda data: open_bundle(data, (key.verify_key,)),
        publisher=lambda _current, tensors, version: make_bundle(tensors, version, key),
    )
    assert agent.run_once(wait_s=5).outcome is Outcome.NEW_MODEL
    assert agent.models.version() == info.version == 3
    assert value(agent.models.serving_path(), agent) == 0.0


def test_a_device_that_does_worse_goes_back_by_itself_and_tells(owner: Owner) -> None:
    served: list[str] = []
    agent = owner.device({0.0: 0.9, 2.0: 0.6, 3.0: 0.88}, lambda path: served.append(path.name))
    agent.fetch_model()
    owner.publish(2)
    assert agent.fetch_model(hint=2)
    state = agent.models.state()
    assert (state.version, state.serving) == (2, 1)
    assert value(agent.models.path(), agent) == 2.0
    assert value(agent.models.serving_path(), agent) == 0.0
    assert owner.reports(2) == (1, 1, 100)
    owner.publish(3)
    assert agent.fetch_model(hint=3)
    assert agent.models.state().serving == 3
    assert owner.reports(3) == (1, 0, 100)
    assert served == ["model-000001.ember", "model-000003.ember"]


def test_a_version_that_devices_refuse_reaches_nobody_else(owner: Owner) -> None:
    agents = [owner.device({0.0: 0.9, 2.0: 0.3}) for _ in range(3)]
    late = owner.device({0.0: 0.9, 2.0: 0.3})
    for agent in (*agents, late):
        agent.fetch_model()
    owner.publish(2)
    for agent in agents:
        assert agent.fetch_model(hint=2)
    assert owner.reports(2) == (3, 3, 0)
    assert not late.fetch_model(hint=2)
    assert late.models.version() == 1
    assert "halted" in httpx.get(owner.server.address).text


def test_a_device_killed_before_it_judged_judges_when_it_starts_again(owner: Owner) -> None:
    agent = owner.device({0.0: 0.9, 2.0: 0.3})
    agent.fetch_model()
    owner.publish(2)
    release = agent._updates._releases.refresh()
    assert release is not None
    agent.models.install(release.info, agent._client.download(release.info, agent.models.partial))
    assert agent.models.state().serving == 1
    assert not agent.fetch_model()
    assert (agent.models.state().serving, agent.models.state().judged) == (1, 2)
    assert owner.reports(2) == (1, 1, 100)


def test_a_report_that_was_lost_is_sent_again_and_counts_once(owner: Owner) -> None:
    agent = owner.device({0.0: 0.9, 2.0: 0.3})
    agent.fetch_model()
    owner.publish(2)
    Deaf.lost = True
    assert agent.fetch_model(hint=2)
    assert owner.reports(2) == (0, 0, 100)
    Deaf.lost = False
    agent.fetch_model()
    assert owner.reports(2) == (1, 1, 100)
    agent.fetch_model()
    assert owner.reports(2) == (1, 1, 100)


def test_a_download_that_broke_off_goes_on_where_it_stopped(owner: Owner) -> None:
    agent = owner.device()
    agent.fetch_model()
    owner.publish(2)
    whole = (owner.server.folder / "models" / "000002.ember").read_bytes()
    agent.models.partial.write_bytes(whole[: len(whole) // 2])
    seen: list[str | None] = []
    agent._client._http.event_hooks["request"].append(
        lambda request: seen.append(request.headers.get("range"))
    )
    assert agent.fetch_model(hint=2)
    assert f"bytes={len(whole) // 2}-" in seen
    assert agent.models.version() == 2
