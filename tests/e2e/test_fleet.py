"""Whole rounds over real HTTP: devices enrol, train, send, and the next model is the mean of theirs."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import numpy as np

from emberfleet.agent.agent import Agent
from emberfleet.agent.client import ServerClient
from emberfleet.core.offers import Mode
from emberfleet.server.rounds.plan import RoundPlan
from tests.fleet import Target, at_work, serve


class Dying(ServerClient):
    """A device that is never heard again once it has its offer."""

    def alive(self, round_id: str) -> None:
        pass

    def decline(self, round_id: str) -> None:
        pass


def test_a_round_makes_the_weighted_mean_of_what_the_devices_learnt(tmp_path: Path) -> None:
    targets = {1: 0.10, 2: -0.05, 5: 0.20}
    with serve(tmp_path / "server", RoundPlan(mode=Mode.SEALED, cohort=3, minimum=3)) as server:
        agents = [
            server.device(tmp_path / f"device{count}", Target(value, count))
            for count, value in targets.items()
        ]
        with at_work(agents):
            [row] = server.wait_for_rounds(1)
        expected = sum(count * value for count, value in targets.items()) / sum(targets)
        model = server.model(2)
        assert row["phase"] == "done"
        assert row["accepted"] == 3
        np.testing.assert_allclose(model["conv/weight"], expected, atol=0.25 / 32767)
        np.testing.assert_allclose(model["norm/variance"], expected, atol=0.25 / 32767)


def test_rounds_follow_each_other_and_devices_fetch_every_new_model(tmp_path: Path) -> None:
    plan = RoundPlan(mode=Mode.SEALED, cohort=3, minimum=3, training={"rate": 1.0}, rate_decay=0.5)
    with serve(tmp_path / "server", plan, rounds=4, evaluator=lambda _: {"accuracy": 0.5}) as server:
        targets = [Target(0.1) for _ in range(3)]
        agents = [server.device(tmp_path / f"device{n}", target) for n, target in enumerate(targets)]
        with at_work(agents):
            rows = server.wait_for_rounds(4)
        assert [row["phase"] for row in rows] == ["done"] * 4
        assert server.status()["model"]["version"] == 5
        assert [settings["rate"] for settings in targets[0].settings] == [1.0, 0.5, 0.25, 0.125]
        assert all(row["metrics"]["accuracy"] == 0.5 for row in rows[:3])


def test_a_device_killed_while_it_trains_is_left_out_and_the_round_completes(tmp_path: Path) -> None:
    stuck, release = threading.Event(), threading.Event()

    def die() -> None:
        stuck.set()
        release.wait(20)
        raise SystemExit

    plan = RoundPlan(mode=Mode.SEALED, cohort=3, minimum=2, lease_s=0.6, deadline_s=60)
    with serve(tmp_path / "server", plan) as server:
        alive = [server.device(tmp_path / f"device{n}", Target(0.1)) for n in range(2)]
        dying = server.device(tmp_path / "dying", Target(0.9, before=die), client_type=Dying)
        thread = threading.Thread(target=lambda: _until_dead(dying), daemon=True)
        thread.start()
        with at_work(alive):
            assert stuck.wait(10)
            [row] = server.wait_for_rounds(1)
        release.set()
        thread.join(5)
        assert row["phase"] == "done"
        assert (row["cohort"], row["accepted"], row["dropped"]) == (3, 2, 1)
        assert row["seconds"] < 10
        np.testing.assert_allclose(server.model(2)["conv/bias"], 0.1, atol=1e-4)


def test_a_slow_device_that_says_it_is_alive_is_waited_for(tmp_path: Path) -> None:
    plan = RoundPlan(mode=Mode.SEALED, cohort=2, minimum=1, lease_s=0.4, deadline_s=60)
    pause = threading.Event()

    def wait() -> None:
        pause.wait(1.2)

    with serve(tmp_path / "server", plan) as server:
        slow = server.device(tmp_path / "slow", Target(0.2, before=wait))
        fast = server.device(tmp_path / "fast", Target(0.0))
        with at_work([slow, fast]):
            [row] = server.wait_for_rounds(1)
        assert row["accepted"] == 2


def test_too_few_updates_fail_the_round_and_the_model_stays(tmp_path: Path) -> None:
    plan = RoundPlan(mode=Mode.SEALED, cohort=2, minimum=2, deadline_s=10.0)
    with serve(tmp_path / "server", plan) as server:
        agents = [
            server.device(tmp_path / "good", Target(0.1)),
            server.device(tmp_path / "bad", Target(np.nan)),
        ]
        with at_work(agents):
            first = server.wait_for_rounds(1)[0]
        assert first["phase"] == "failed"
        assert first["failure"] == "1 updates came from 2 devices, expected 2"
        assert server.status()["model"]["version"] == 1
        assert not list((server.folder / "models").glob("000002*"))


def _until_dead(agent: Agent) -> None:
    with contextlib.suppress(SystemExit):
        while True:
            agent.run_once(wait_s=1)
    agent.close()
