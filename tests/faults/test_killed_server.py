"""A server is killed at every step that outlives it, and what it acknowledged counts exactly once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.dying_server import Step
from tests.faults.marked_fleet import MarkedFleet, marked_plan

SECOND_SET = "a second set of survivors"


def fleet_in(folder: Path, devices: int, mode: str = "secure") -> MarkedFleet:
    plan = marked_plan(
        mode=mode, cohort=devices, minimum=3, pool_wait_s=10.0, lease_s=20.0, deadline_s=60.0, presence_s=5.0
    )
    fleet = MarkedFleet(folder, devices, plan)
    assert fleet.server.start()
    fleet.enrol()
    return fleet


@pytest.mark.parametrize(("mode", "steps"), [("secure", 13), ("sealed", 7)])
def test_a_server_killed_before_each_time_it_stores_a_round_goes_on_with_it(
    mode: str, steps: int, tmp_path: Path
) -> None:
    fleet = fleet_in(tmp_path / "fleet", 4, mode)
    deaths = 0
    with fleet.at_work():
        fleet.wait_for_rounds(1, 30)
        fleet.server.kill()
        for step in range(1, steps + 1):
            fleet.server.start(Step.ROUND, step)
            assert fleet.server.wait_until_dead(30), f"step {step} was not reached"
            deaths += 1
        assert fleet.server.start()
        fleet.wait_for_rounds(len([row for row in fleet.rows() if row.phase == "done"]) + 1, 30)
        fleet.server.stop()
    assert fleet.check_models() >= 2
    assert deaths == steps
    assert not [row.failure for row in fleet.rows() if row.phase == "failed"]
    assert not [text for _, _, text in fleet.outcomes if SECOND_SET in text]


@pytest.mark.slow
def test_a_server_killed_at_fifty_random_instants_of_rounds_of_twenty_devices_loses_nothing(
    tmp_path: Path,
) -> None:
    fleet = fleet_in(tmp_path / "fleet", 20)
    chance = random.Random(5)
    with fleet.at_work():
        fleet.wait_for_rounds(1, 60)
        fleet.server.kill()
        for _ in range(50):
            fleet.server.start(Step.ANY, chance.randrange(1, 400))
            if not fleet.server.wait_until_dead(chance.random() * 3):
                fleet.server.kill()
        assert fleet.server.start()
        done = len([row for row in fleet.rows() if row.phase == "done"])
        fleet.wait_for_rounds(done + 1, 60)
        fleet.server.stop()
    assert fleet.check_models() >= 3
    assert not [row.failure for row in fleet.rows() if row.phase == "failed"]
    assert not [text for _, _, text in fleet.outcomes if SECOND_SET in text]
