"""Updates: the round trip is within half a step, and what a plan does not allow is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emberfleet.core.codec import Fields, NotFiniteError, encode_json
from emberfleet.core.errors import FormatError, ShapeError
from emberfleet.core.updates import (
    OutOfRangeError,
    TensorPlan,
    UpdatePlan,
    decode_update,
    encode_update,
    read_update,
)

PLAN = UpdatePlan((TensorPlan("a/weight", (2, 3), 0.5), TensorPlan("b/bias", (4,), 2.0)))
WEIGHTS = hnp.arrays(np.float32, (2, 3), elements=st.floats(-3, 3, width=32))
BIASES = hnp.arrays(np.float32, (4,), elements=st.floats(-3, 3, width=32))


def plan_of(bits: int) -> UpdatePlan:
    return UpdatePlan(PLAN.tensors, bits)


def zeros() -> dict[str, np.ndarray]:
    return {"a/weight": np.zeros((2, 3), np.float32), "b/bias": np.zeros(4, np.float32)}


@pytest.mark.parametrize("bits", [8, 16, 32])
@given(weight=WEIGHTS, bias=BIASES, old_weight=WEIGHTS)
def test_round_trip_is_within_half_a_step_of_the_clipped_change(
    bits: int, weight: np.ndarray, bias: np.ndarray, old_weight: np.ndarray
) -> None:
    plan = plan_of(bits)
    old = {"a/weight": old_weight, "b/bias": np.zeros(4, np.float32)}
    new = {"a/weight": weight, "b/bias": bias}
    found = decode_update(encode_update(old, new, plan), plan)
    for tensor in plan.tensors:
        change = new[tensor.name].astype(np.float64) - old[tensor.name]
        clipped = np.clip(change, -tensor.clip, tensor.clip)
        half_step = 0.0 if bits == 32 else plan.step(tensor) / 2
        float32_rounding = 2.0**-23 * tensor.clip
        np.testing.assert_allclose(found[tensor.name], clipped, rtol=0, atol=half_step + float32_rounding)


def test_the_same_tensors_give_the_same_bytes() -> None:
    new = {"a/weight": np.full((2, 3), 0.1, np.float32), "b/bias": np.arange(4, dtype=np.float32)}
    assert encode_update(zeros(), new, PLAN) == encode_update(zeros(), new, PLAN)


def test_stochastic_rounding_is_right_on_average_and_within_one_step() -> None:
    plan = UpdatePlan((TensorPlan("w", (20_000,), 1.0),), bits=8)
    old, new = {"w": np.zeros(20_000, np.float32)}, {"w": np.full(20_000, 0.3 / 127, np.float32)}
    sent = read_update(encode_update(old, new, plan, np.random.default_rng(1)), plan)
    assert set(np.unique(sent)) == {0, 1}
    assert abs(float(sent.mean()) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 20_000)


@pytest.mark.parametrize(("bits", "limit"), [(8, 100_000), (16, 200_000)])
def test_an_update_of_100k_values_is_small(bits: int, limit: int) -> None:
    plan = UpdatePlan((TensorPlan("w", (100_000,), 1.0),), bits)
    tensors = {"w": np.zeros(100_000, np.float32)}
    assert len(encode_update(tensors, tensors, plan)) == plan.size_bytes == limit


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_diverged_training_is_not_encoded(bad: float) -> None:
    new = zeros()
    new["b/bias"][2] = bad
    with pytest.raises(NotFiniteError, match="b/bias"):
        encode_update(zeros(), new, PLAN)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_float32_that_is_not_finite_is_refused(bad: float) -> None:
    values = np.zeros(10, "<f4")
    values[7] = bad
    with pytest.raises(NotFiniteError):
        read_update(values.tobytes(), plan_of(32))


def test_float32_beyond_the_clip_is_refused() -> None:
    values = np.zeros(10, "<f4")
    values[0] = 0.51
    with pytest.raises(OutOfRangeError, match="a/weight"):
        read_update(values.tobytes(), plan_of(32))


@pytest.mark.parametrize("bits", [8, 16])
def test_the_one_integer_that_no_device_sends_is_refused(bits: int) -> None:
    values = np.zeros(10, plan_of(bits).wire_type)
    values[3] = -(1 << (bits - 1))
    with pytest.raises(OutOfRangeError):
        read_update(values.tobytes(), plan_of(bits))


@pytest.mark.parametrize("length", [0, 1, 19, 21, 40])
def test_another_length_is_refused(length: int) -> None:
    with pytest.raises(ShapeError, match="expected 20"):
        read_update(b"\0" * length, PLAN)


def test_a_missing_tensor_and_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError, match="missing"):
        encode_update(zeros(), {"a/weight": np.zeros((2, 3), np.float32)}, PLAN)
    with pytest.raises(ShapeError, match=r"expected \(2, 3\)"):
        encode_update(zeros(), {**zeros(), "a/weight": np.zeros((3, 2), np.float32)}, PLAN)


def test_a_plan_survives_json() -> None:
    fields = Fields.parse(encode_json(PLAN.to_json()), "plan")
    assert UpdatePlan.from_fields(fields) == PLAN


@pytest.mark.parametrize(
    "change",
    [
        {"bits": 12},
        {"tensors": []},
        {"tensors": [["w", [2], 0.0]]},
        {"tensors": [["w", [2], -1]]},
        {"tensors": [["w", [0], 1]]},
        {"tensors": [["w", [-2], 1]]},
        {"tensors": [["w", [1 << 40], 1]]},
        {"tensors": [["w", [1 << 20, 1 << 20], 1]]},
        {"tensors": [["w", [True], 1]]},
        {"tensors": [["w", [2], 1], ["w", [2], 1]]},
        {"tensors": [["", [2], 1]]},
        {"tensors": [["w", 2, 1]]},
        {"tensors": ["w"]},
        {"extra": 1},
    ],
)
def test_a_plan_from_outside_is_checked(change: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        UpdatePlan.from_fields(Fields.of({**PLAN.to_json(), **change}, "plan"))
