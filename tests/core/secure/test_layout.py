"""The vector of a round: where tensors and weights stand, and that weights sum exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.errors import ShapeError
from emberfleet.core.secure.coordinates import Coordinates
from emberfleet.core.secure.layout import MAX_WEIGHT, SumLayout
from emberfleet.core.updates import TensorPlan, UpdatePlan

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=6)
SEED = bytes(range(32))


def plan_of(sizes: list[int], bits: int = 8) -> UpdatePlan:
    tensors = [TensorPlan(f"t{index}", (size,), 0.5 + index) for index, size in enumerate(sizes)]
    return UpdatePlan(tuple(tensors), bits)


@given(
    SIZES,
    st.sampled_from([8, 16]),
    st.integers(1, MAX_WEIGHT),
    st.lists(st.integers(1, 2 * MAX_WEIGHT), min_size=1),
)
def test_weights_sum_exactly_and_their_digits_are_admitted(
    sizes: list[int], bits: int, heaviest: int, samples: list[int]
) -> None:
    layout = SumLayout(plan_of(sizes, bits), len(samples), heaviest)
    weights = [layout.weigh(count) for count in samples]
    rows = [layout.write_weight(weight) for weight in weights]
    assert all(0 <= digit <= layout.ring.limit for row in rows for digit in row)
    assert {len(row) for row in rows} == {layout.digits}
    assert layout.read_weight([sum(column) for column in zip(*rows, strict=True)]) == sum(weights)
    assert weights == [min(count, heaviest) for count in samples]


@pytest.mark.parametrize(
    ("bits", "heaviest", "digits"),
    [(8, 1, 1), (8, 127, 1), (8, 128, 2), (8, MAX_WEIGHT, 3), (16, MAX_WEIGHT, 2)],
)
def test_a_weight_takes_as_few_digits_as_the_heaviest_needs(bits: int, heaviest: int, digits: int) -> None:
    assert SumLayout(plan_of([5], bits), 10, heaviest).digits == digits


@given(SIZES, st.one_of(st.none(), st.floats(0.05, 1.0)), st.integers(0, 100), st.integers(0, 100))
def test_each_value_has_the_clip_of_its_tensor(
    sizes: list[int], share: float | None, begin: int, length: int
) -> None:
    coordinates = None if share is None else Coordinates.of_share(SEED, share)
    plan = plan_of(sizes)
    layout = SumLayout(plan, 5, coordinates=coordinates)
    all_clips = [tensor.clip for tensor, span in plan.spans() for _ in range(span.start, span.stop)]
    expected = all_clips if layout.chosen is None else [all_clips[index] for index in layout.chosen]
    assert len(expected) == layout.values
    end = min(begin + length, layout.values)
    found = [clip for start, stop, clip in layout.clips(begin, end) for _ in range(start, stop)]
    assert found == expected[begin:end]


def test_an_8_bit_update_of_a_hundred_devices_takes_15_bits_a_value() -> None:
    layout = SumLayout(plan_of([1_250_000]), 100, 1000)
    assert layout.ring.width == 15
    assert layout.size_bytes == 2_343_780
    assert layout.size_bytes - 1_250_000 * 15 // 8 == 30


@pytest.mark.parametrize("heaviest", [0, -1, MAX_WEIGHT + 1])
def test_a_heaviest_weight_out_of_range_is_refused(heaviest: int) -> None:
    with pytest.raises(ShapeError, match="heaviest weight"):
        SumLayout(plan_of([5]), 10, heaviest)


def test_float_updates_and_cohorts_out_of_range_are_refused() -> None:
    with pytest.raises(ShapeError, match="32 bits per value"):
        SumLayout(plan_of([5], 32), 10)
    with pytest.raises(ShapeError, match="0 devices"):
        SumLayout(plan_of([5]), 0)


@pytest.mark.parametrize("samples", [0, -5])
def test_a_device_without_samples_has_no_weight(samples: int) -> None:
    with pytest.raises(ShapeError, match="at least 1"):
        SumLayout(plan_of([5]), 10).weigh(samples)
