"""The rate at the steps where a schedule turns."""

from __future__ import annotations

import pytest

from emberfleet.core.errors import ConfigError
from emberfleet.train.schedules import Schedule


def test_warm_up_rises_in_equal_steps_to_the_peak() -> None:
    schedule = Schedule(1.0, 100, warmup_steps=4)
    assert [schedule.rate(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_cosine_is_half_way_down_in_the_middle_and_ends_at_its_floor() -> None:
    schedule = Schedule(2.0, 110, warmup_steps=10, floor=0.1)
    assert schedule.rate(10) == pytest.approx(2.0)
    assert schedule.rate(60) == pytest.approx(2.0 * 0.55)
    assert schedule.rate(110) == pytest.approx(0.2)
    assert schedule.rate(1000) == pytest.approx(0.2)


def test_constant_stays_at_the_peak() -> None:
    schedule = Schedule(0.5, 10, warmup_steps=2, shape="constant")
    assert [schedule.rate(step) for step in (2, 9, 500)] == [0.5, 0.5, 0.5]


def test_step_falls_by_its_factor_after_every_so_many_steps() -> None:
    schedule = Schedule(1.0, 9, shape="step", every=3, factor=0.5)
    assert [schedule.rate(step) for step in (0, 2, 3, 5, 6)] == [1.0, 1.0, 0.5, 0.5, 0.25]


@pytest.mark.parametrize(
    "settings",
    [
        {"peak": 0.0, "steps": 10},
        {"peak": float("nan"), "steps": 10},
        {"peak": 1.0, "steps": 0},
        {"peak": 1.0, "steps": 5, "warmup_steps": 6},
        {"peak": 1.0, "steps": 5, "shape": "step"},
        {"peak": 1.0, "steps": 5, "shape": "sine"},
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Schedule(**settings)  # type: ignore[arg-type]
