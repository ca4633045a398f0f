"""From the mean change to the next model."""

from __future__ import annotations

import numpy as np
import pytest

from emberfleet.core.errors import RoundError
from emberfleet.server.aggregate.momentum import next_model

OLD = {"conv/weight": np.full(3, 1.0, np.float32), "norm/variance": np.full(3, 0.5, np.float32)}


def change(weight: float, variance: float) -> dict[str, np.ndarray]:
    return {"conv/weight": np.full(3, weight, np.float32), "norm/variance": np.full(3, variance, np.float32)}


def test_without_momentum_the_mean_is_added_as_it_is() -> None:
    new, velocity = next_model(OLD, change(0.25, -0.125), {}, momentum=0.0, rate=1.0)
    np.testing.assert_array_equal(new["conv/weight"], 1.25)
    np.testing.assert_array_equal(new["norm/variance"], 0.375)
    assert velocity == {}


def test_momentum_adds_what_is_left_of_earlier_rounds() -> None:
    model: dict[str, np.ndarray] = OLD
    velocity: dict[str, np.ndarray] = {}
    for expected in (1.0 + 1.0, 2.0 + 1.5, 3.5 + 1.75):
        model, velocity = next_model(model, change(1.0, 0.0), velocity, momentum=0.5, rate=1.0)
        np.testing.assert_allclose(model["conv/weight"], expected)


def test_statistics_take_no_momentum_and_no_rate() -> None:
    velocity = {"norm/variance": np.full(3, 9.0, np.float32)}
    new, kept = next_model(OLD, change(0.0, 0.1), velocity, momentum=0.9, rate=0.5)
    np.testing.assert_allclose(new["norm/variance"], 0.6)
    assert "norm/variance" not in kept


def test_a_variance_never_falls_below_zero() -> None:
    new, _ = next_model(OLD, change(0.0, -2.0), {}, momentum=0.0, rate=1.0)
    np.testing.assert_array_equal(new["norm/variance"], 0.0)


def test_tensors_without_a_change_stay() -> None:
    new, _ = next_model(OLD, {"conv/weight": np.ones(3, np.float32)}, {}, momentum=0.0, rate=1.0)
    np.testing.assert_array_equal(new["norm/variance"], OLD["norm/variance"])


def test_momentum_of_another_shape_starts_anew() -> None:
    velocity = {"conv/weight": np.ones(4, np.float32)}
    new, _ = next_model(OLD, change(1.0, 0.0), velocity, momentum=0.9, rate=1.0)
    np.testing.assert_array_equal(new["conv/weight"], 2.0)


def test_the_old_model_is_not_written_to() -> None:
    next_model(OLD, change(1.0, 1.0), {}, momentum=0.9, rate=1.0)
    np.testing.assert_array_equal(OLD["conv/weight"], 1.0)


def test_a_model_that_is_not_finite_is_refused() -> None:
    with pytest.raises(RoundError, match="not finite"):
        next_model(OLD, change(np.inf, 0.0), {}, momentum=0.0, rate=1.0)
