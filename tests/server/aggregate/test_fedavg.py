"""The laws of averaging: order does not matter, constants stay, and one pass equals the plain mean."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.errors import RoundError, ShapeError
from emberfleet.server.aggregate.fedavg import BLOCK, MAX_WEIGHT, WeightedMean

INTEGERS = st.lists(
    st.tuples(st.lists(st.integers(-32767, 32767), min_size=5, max_size=5), st.integers(1, MAX_WEIGHT)),
    min_size=1,
    max_size=8,
)


def mean_of(updates: list[tuple[list[int], int]], dtype: str = "<i2") -> np.ndarray:
    total = WeightedMean(5, np.dtype(dtype))
    for values, weight in updates:
        total.add(np.array(values, dtype), weight)
    return total.mean()


@given(INTEGERS, st.randoms())
def test_the_mean_of_integers_does_not_depend_on_the_order_in_any_bit(
    updates: list[tuple[list[int], int]], generator: random.Random
) -> None:
    shuffled = list(updates)
    generator.shuffle(shuffled)
    assert mean_of(updates).tobytes() == mean_of(shuffled).tobytes()


@given(
    st.lists(st.integers(-32767, 32767), min_size=5, max_size=5), st.lists(st.integers(1, 1000), min_size=1)
)
def test_the_mean_of_equal_updates_is_that_update(values: list[int], weights: list[int]) -> None:
    np.testing.assert_array_equal(mean_of([(values, weight) for weight in weights]), values)


@given(INTEGERS)
def test_one_pass_equals_the_plain_mean(updates: list[tuple[list[int], int]]) -> None:
    weights = [weight for _, weight in updates]
    exact = [sum(weight * values[place] for values, weight in updates) / sum(weights) for place in range(5)]
    np.testing.assert_allclose(mean_of(updates), exact, rtol=1e-15)


@given(INTEGERS)
def test_the_mean_lies_between_the_smallest_and_the_largest(updates: list[tuple[list[int], int]]) -> None:
    stacked = np.array([values for values, _ in updates])
    found = mean_of(updates)
    assert (found >= stacked.min(axis=0) - 1e-9).all()
    assert (found <= stacked.max(axis=0) + 1e-9).all()


def test_floats_are_summed_in_double_precision() -> None:
    total = WeightedMean(1, np.dtype("<f4"))
    total.add(np.array([1e8], np.float32), 1)
    for _ in range(1000):
        total.add(np.array([1.0], np.float32), 1)
    np.testing.assert_allclose(total.mean() * 1001, 1e8 + 1000, rtol=1e-15)


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_blocks_cover_every_value_once(size: int) -> None:
    values = (np.arange(size) % 1000).astype(np.int16)
    total = WeightedMean(size, values.dtype)
    total.add(values, 3)
    np.testing.assert_array_equal(total.mean(), values)


def test_memory_does_not_grow_with_the_number_of_updates() -> None:
    update = np.ones(200_000, np.int16)
    total = WeightedMean(len(update), update.dtype)
    total.add(update, 1)
    tracemalloc.start()
    try:
        for _ in range(20):
            total.add(update, 1)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("weight", [0, -1, MAX_WEIGHT + 1, 10**15])
def test_a_weight_beyond_reason_is_refused_and_changes_nothing(weight: int) -> None:
    total = WeightedMean(1, np.dtype("<i2"))
    total.add(np.array([5], np.int16), 1)
    with pytest.raises(RoundError, match="weight"):
        total.add(np.array([7], np.int16), weight)
    assert total.mean() == 5


@pytest.mark.parametrize(
    "values", [np.zeros(1, np.int16), np.zeros((5, 1), np.int16), np.zeros(5, np.float32)]
)
def test_another_shape_or_kind_is_refused_and_not_broadcast(values: np.ndarray) -> None:
    total = WeightedMean(5, np.dtype("<i2"))
    with pytest.raises(ShapeError):
        total.add(values, 1)
    assert total.count == 0


def test_nothing_has_no_mean() -> None:
    with pytest.raises(RoundError, match="no update"):
        WeightedMean(3, np.dtype("<i2")).mean()
