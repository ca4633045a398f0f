"""The public mask of coordinates: the same for everybody, and of about the share asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.errors import ShapeError
from emberfleet.core.secure.coordinates import ALL, Coordinates
from tests.core.secure import twins

SEEDS = st.binary(min_size=32, max_size=32)


@given(SEEDS, st.integers(1, ALL), st.integers(0, 300))
def test_those_are_taken_that_draw_below_the_chance(seed: bytes, chance: int, count: int) -> None:
    drawn = twins.numbers(seed, count, 4)
    expected = [index for index, number in enumerate(drawn) if number < chance]
    found = Coordinates(seed, chance).choose(count)
    assert found.tolist() == expected
    assert found.dtype == np.int64


@given(SEEDS)
def test_a_draw_of_exactly_the_chance_is_not_below_it(seed: bytes) -> None:
    (first,) = twins.numbers(seed, 1, 4)
    assert Coordinates(seed, first + 1).choose(1).tolist() == [0]
    assert Coordinates(seed, max(first, 1)).choose(1).tolist() == []


@given(SEEDS)
def test_a_share_takes_about_so_many(seed: bytes) -> None:
    found = Coordinates.of_share(seed, 0.1).choose(20_000).size
    assert abs(found - 2000) < 8 * (20_000 * 0.1 * 0.9) ** 0.5


def test_the_whole_share_takes_all_and_the_smallest_is_not_nothing() -> None:
    assert Coordinates.of_share(bytes(32), 1.0).choose(7).tolist() == list(range(7))
    assert Coordinates.of_share(bytes(32), 1e-30).chance == 1


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ShapeError, match="expected above 0 to 1"):
        Coordinates.of_share(bytes(32), share)


@pytest.mark.parametrize(("size", "chance"), [(31, 5), (33, 5), (32, 0), (32, ALL + 1)])
def test_seeds_and_chances_out_of_range_are_refused(size: int, chance: int) -> None:
    with pytest.raises(ShapeError, match="expected"):
        Coordinates(bytes(size), chance)
