"""Whether one opened update may count: each check with its reason, and nothing cut down to fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.codec import NotFiniteError
from emberfleet.core.errors import EmberError, ShapeError
from emberfleet.core.messages import Reason, RefusedError, UpdateHeader
from emberfleet.core.updates import OutOfRangeError, TensorPlan, UpdatePlan
from emberfleet.server.aggregate.checks import COLUMNS, check_update, update_norm
from tests.server.aggregate import plain

FLOATS = UpdatePlan((TensorPlan("a", (3,), 0.5), TensorPlan("b", (2,), 4.0)), 32)


def header(samples: int = 5) -> UpdateHeader:
    return UpdateHeader("0" * 32, 1, "a" * 32, samples)


def checked(
    values: list[float], samples: int = 5, norm_bound: float = 0.0, weight_bound: int = 100
) -> object:
    payload = np.array(values, "<f4").tobytes()
    return check_update(payload, header(samples), FLOATS, norm_bound=norm_bound, weight_bound=weight_bound)


def test_an_update_that_keeps_to_the_plan_comes_through_as_it_is() -> None:
    np.testing.assert_array_equal(checked([0.5, 0, -0.5, 4, -4], 100, 6.0), [0.5, 0, -0.5, 4, -4])


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ([np.nan, 0, 0, 0, 0], NotFiniteError),
        ([0, 0, 0, 0, np.inf], NotFiniteError),
        ([0.6, 0, 0, 0, 0], OutOfRangeError),
        ([0, 0, 0, 0], ShapeError),
        ([0.0], ShapeError),
        ([], ShapeError),
    ],
)
def test_broken_values_are_refused(values: list[float], error: type[EmberError]) -> None:
    with pytest.raises(error):
        checked(values)


@pytest.mark.parametrize("samples", [101, 10**6, 10**15, 0, -3])
def test_a_weight_beyond_the_bound_is_refused_and_not_cut(samples: int) -> None:
    with pytest.raises(RefusedError, match=f"claims {samples} samples, expected 1 to 100") as caught:
        checked([0, 0, 0, 0, 0], samples)
    assert caught.value.reason is Reason.WEIGHT
    assert "at most 100 samples" in caught.value.advice


def test_a_norm_beyond_the_bound_is_refused_and_not_cut() -> None:
    checked([0, 0, 0, 3, 4], norm_bound=5.0)
    with pytest.raises(RefusedError, match=r"norm is 5, expected at most 4\.9") as caught:
        checked([0, 0, 0, 3, 4], norm_bound=4.9)
    assert caught.value.reason is Reason.NORM
    assert "lower rate" in caught.value.advice


def test_without_a_bound_no_norm_is_too_large() -> None:
    checked([0.5, 0.5, 0.5, 4, 4], norm_bound=0.0)


@pytest.mark.parametrize("bits", [8, 16, 32])
@given(st.lists(st.integers(-127, 127), min_size=5, max_size=5))
def test_the_norm_is_that_of_the_real_change(bits: int, values: list[int]) -> None:
    plan = UpdatePlan(FLOATS.tensors, bits)
    row = np.array(values, np.float64) / (256 if bits == 32 else 1)
    steps = np.repeat([plan.step(tensor) for tensor in plan.tensors], [3, 2])
    expected = plain.norm((row * steps).tolist())
    assert update_norm(row.astype(plan.wire_type), plan) == pytest.approx(expected, rel=1e-12)


def test_the_norm_counts_every_block_of_a_large_tensor() -> None:
    plan = UpdatePlan((TensorPlan("a", (2 * COLUMNS + 3,), 1.0), TensorPlan("b", (1,), 1.0)), 32)
    assert update_norm(np.ones(plan.size, np.float32), plan) == pytest.approx(np.sqrt(2 * COLUMNS + 4))
