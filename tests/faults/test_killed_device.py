"""Devices are killed around every message of a secure round, and come back or do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from emberfleet.server.storage.database import RoundRow
from tests.faults.marked_fleet import MarkedFleet, marked_plan
from tests.faults.mortal_device import SECURE_POINTS, start_device

DEVICES, VICTIM = 5, 0
BEFORE_THE_SUM = ("keys", "roster", "shares", "before update")
"""Killed for good there, a device is not in the sum; later its update is on the server, and counts."""


@pytest.fixture
def fleet(tmp_path: Path) -> MarkedFleet:
    plan = marked_plan(
        cohort=DEVICES, minimum=3, pool_wait_s=1.0, keys_s=2.0, shares_s=2.0, deadline_s=20.0,
        confirm_s=2.0, unmask_s=3.0, lease_s=1.5, presence_s=3.0,
    )  # fmt: skip
    made = MarkedFleet(tmp_path / "fleet", DEVICES, plan)
    assert made.server.start()
    made.enrol()
    return made


def rounds_with_victim(fleet: MarkedFleet) -> list[int]:
    """Numbers of the rounds that are over and had the victim in their cohort."""
    return [row.number for row in fleet.over() if fleet.ids[VICTIM] in row.cohort]


def round_of_a_death(fleet: MarkedFleet, point: str, *, comes_back: bool) -> RoundRow:
    """Kill the victim at this point, for good or not; how the round ends."""
    known = len(rounds_with_victim(fleet))
    victim = start_device(fleet.root, VICTIM, point)
    victim.join(60)
    assert victim.exitcode == -9, point
    if comes_back:
        victim = start_device(fleet.root, VICTIM, "")
    else:
        for path in fleet.root.glob(f"device{VICTIM}/round*"):
            path.unlink()
    fleet.wait_until(lambda: len(rounds_with_victim(fleet)) > known, 60)
    victim.kill()
    victim.join()
    row = next(row for row in fleet.rows() if row.number == rounds_with_victim(fleet)[known])
    assert row.phase == "done", f"{point}: {row.failure}"
    return row


@pytest.mark.slow
def test_a_device_killed_for_good_at_any_point_stops_no_round_and_counts_once_or_not_at_all(
    fleet: MarkedFleet,
) -> None:
    with fleet.at_work(range(1, DEVICES)):
        for point in SECURE_POINTS:
            row = round_of_a_death(fleet, point, comes_back=False)
            counted = VICTIM in fleet.contributors(row.model_version + 1)
            assert counted is not any(name in point for name in BEFORE_THE_SUM), point
        fleet.server.stop()
    fleet.check_models()


@pytest.mark.parametrize(
    "points", [SECURE_POINTS[1::5], pytest.param(SECURE_POINTS, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_a_device_killed_at_any_point_and_started_again_goes_on_with_its_round(
    fleet: MarkedFleet, points: tuple[str, ...]
) -> None:
    with fleet.at_work(range(1, DEVICES)):
        for point in points:
            row = round_of_a_death(fleet, point, comes_back=True)
            assert VICTIM in fleet.contributors(row.model_version + 1), point
        fleet.server.stop()
    fleet.check_models()
