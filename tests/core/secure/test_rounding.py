"""Rounding: bit for bit the plain twin, right on average, and never beyond what the ring admits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emberfleet.core.codec import NotFiniteError
from emberfleet.core.errors import ShapeError
from emberfleet.core.secure.coordinates import Coordinates
from emberfleet.core.secure.layout import SumLayout
from emberfleet.core.secure.rounding import PIECE, round_change
from emberfleet.core.updates import TensorPlan, UpdatePlan
from tests.core.secure import twins

SEEDS = st.binary(min_size=32, max_size=32)
FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
CHANGES = hnp.arrays(np.float32, 40, elements=st.one_of(st.floats(-3, 3, width=32), FINITE))
SEED = bytes(range(32))


def plan_of(bits: int, *sizes: int) -> UpdatePlan:
    return UpdatePlan(
        tuple(TensorPlan(f"t{index}", (size,), 0.5 + 3 * index) for index, size in enumerate(sizes)), bits
    )


def integers(change: np.ndarray, samples: int, layout: SumLayout, seed: bytes = SEED) -> np.ndarray:
    return layout.ring.signed(round_change(change, samples, layout, seed))


@given(CHANGES, st.integers(1, 50), st.sampled_from([8, 16]), SEEDS)
def test_every_integer_is_the_plain_twins(change: np.ndarray, samples: int, bits: int, seed: bytes) -> None:
    layout = SumLayout(plan_of(bits, 7, 1, 32), 100, heaviest=20)
    clips = [tensor.clip for tensor in layout.plan.tensors for _ in range(tensor.size)]
    expected = twins.rounded(change.tolist(), clips, min(samples, 20) / 20, bits, seed)
    assert integers(change, samples, layout, seed).tolist() == expected
    assert max(map(abs, expected)) <= layout.ring.limit


@given(CHANGES, SEEDS, st.floats(0.05, 0.9))
def test_chosen_coordinates_are_rounded_as_if_they_were_all(
    change: np.ndarray, seed: bytes, share: float
) -> None:
    plan = plan_of(8, 7, 1, 32)
    layout = SumLayout(plan, 100, coordinates=Coordinates.of_share(seed, share))
    assert layout.chosen is not None
    clips = [tensor.clip for tensor in plan.tensors for _ in range(tensor.size)]
    expected = twins.rounded(
        [float(change[index]) for index in layout.chosen],
        [clips[index] for index in layout.chosen],
        1.0,
        8,
        SEED,
    )
    assert integers(change, 1, layout).tolist() == expected


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([8, 16]))
def test_pieces_follow_each_other_as_the_plain_twin_goes_on(seed: int, bits: int) -> None:
    size = PIECE + 130
    layout = SumLayout(plan_of(bits, PIECE - 5, 135), 4)
    change = np.random.default_rng(seed).uniform(-1, 1, size).astype(np.float32)
    clips = [tensor.clip for tensor in layout.plan.tensors for _ in range(tensor.size)]
    expected = twins.rounded(change.tolist(), clips, 1.0, bits, SEED)
    assert integers(change, 1, layout).tolist() == expected


@pytest.mark.parametrize("bits", [8, 16])
@given(SEEDS, st.lists(st.integers(-127, 127), min_size=1, max_size=30))
def test_whole_numbers_of_steps_are_sent_as_they_are(bits: int, seed: bytes, steps: list[int]) -> None:
    limit = 2 ** (bits - 1) - 1
    plan = UpdatePlan((TensorPlan("t", (len(steps),), float(limit)),), bits)
    assert integers(np.array(steps, np.float32), 1, SumLayout(plan, 3), seed).tolist() == steps


@pytest.mark.parametrize(("short_by", "expected"), [(0.3, 1), (0.7, 0)])
def test_the_fraction_is_rounded_to_the_nearest_draw(short_by: float, expected: int) -> None:
    draws = np.array(twins.numbers(SEED, 500, 2))
    plan = UpdatePlan((TensorPlan("t", (500,), 127.0),), 8)
    change = ((65536 - draws - short_by) / 65536).astype(np.float32)
    assert (integers(change, 1, SumLayout(plan, 3)) == expected).all()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("fraction", [0.25, -0.3, 0.5, 0.9])
def test_the_mean_of_many_is_right_and_each_within_a_step(bits: int, fraction: float) -> None:
    count, limit = 40_000, 2 ** (bits - 1) - 1
    plan = UpdatePlan((TensorPlan("t", (count,), float(limit)),), bits)
    sent = integers(np.full(count, 5 + fraction, np.float32), 1, SumLayout(plan, 3))
    assert np.abs(sent - (5 + fraction)).max() < 1
    deviation = (abs(fraction) % 1 * (1 - abs(fraction) % 1) / count) ** 0.5
    assert abs(sent.mean() - (5 + fraction)) < 6 * deviation


def test_the_same_seed_gives_the_same_integers_and_another_gives_others() -> None:
    change = np.full(1000, 0.1003, np.float32)
    layout = SumLayout(plan_of(8, 1000), 3)
    assert (integers(change, 1, layout) == integers(change, 1, layout)).all()
    assert (integers(change, 1, layout) != integers(change, 1, layout, bytes(32))).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, PIECE, PIECE + 9])
def test_a_change_that_is_not_finite_is_refused_wherever_it_stands(value: float, place: int) -> None:
    change = np.zeros(PIECE + 10, np.float32)
    change[place] = value
    with pytest.raises(NotFiniteError, match="diverged"):
        round_change(change, 1, SumLayout(plan_of(8, PIECE + 10), 3), SEED)


@pytest.mark.parametrize(
    "change", [np.zeros(4, np.float32), np.zeros(6, np.float32), np.zeros((5, 1), np.float32), np.zeros(5)]
)
def test_a_change_of_another_shape_or_type_is_refused(change: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=r"expected float32 \(5,\)"):
        round_change(change, 1, SumLayout(plan_of(8, 5), 3), SEED)
