from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.errors import QuantError
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import (
    Add,
    AveragePool,
    BatchNorm,
    ClippedRelu,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    GlobalAveragePool,
    Input,
    MaxPool,
    Relu,
)
from emberfleet.core.quantization import (
    QuantParams,
    activation_behind,
    fake_quantize,
    fake_quantize_weights,
    multiply_by_quantized_multiplier,
    quantization_points,
    quantize_multiplier,
    quantize_weights,
    range_names,
    range_params,
    requantize,
    weight_scales,
)
from tests.core.networks import bypass_network

ranges = st.tuples(
    st.floats(-1e3, 1e3, allow_nan=False, width=32), st.floats(-1e3, 1e3, allow_nan=False, width=32)
).map(sorted)


@given(ranges)
def test_zero_is_exactly_one_of_the_values(limits: list[float]) -> None:
    params = QuantParams.from_range(*limits)
    assert params.dequantize(params.quantize(np.zeros(1, np.float32)))[0] == 0.0


@given(ranges, st.floats(0, 1))
def test_rounding_errs_by_at_most_half_a_step(limits: list[float], where: float) -> None:
    params = QuantParams.from_range(*limits)
    x = np.float32(params.low + where * (params.high - params.low))
    error = abs(float(params.dequantize(params.quantize(np.array([x])))[0]) - float(x))
    # Half a step, and the float32 rounding of numbers up to 256 steps large.
    assert error <= params.scale * (0.5 + 256 * 2.0**-22)


def test_tie_rounds_to_even() -> None:
    params = QuantParams(1.0, 0)
    assert params.quantize(np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)).tolist() == [0, 2, 2, 0, -2]


def test_values_beyond_the_range_are_clipped() -> None:
    params = QuantParams.from_range(-1.0, 1.0)
    assert params.quantize(np.array([-9, 9], np.float32)).tolist() == [-128, 127]


@pytest.mark.parametrize("limits", [(0.0, math.nan), (-math.inf, 1.0), (1.0, 0.0)])
def test_a_range_that_is_none_is_refused(limits: tuple[float, float]) -> None:
    with pytest.raises(QuantError, match="range is"):
        QuantParams.from_range(*limits)


@pytest.mark.parametrize("limits", [(0.0, 0.0), (0.0, 1e-6), (-1e-6, 0.0)])
def test_a_range_that_holds_nothing_but_zero_gets_ordinary_steps(limits: tuple[float, float]) -> None:
    assert QuantParams.from_range(*limits) == QuantParams.from_range(0.0, 1.0)
    assert QuantParams.from_range(*limits, ceiling=0.25) == QuantParams.from_range(0.0, 0.25)


@given(ranges, st.integers(0, 1000))
def test_fake_quantize_is_quantize_then_dequantize(limits: list[float], seed: int) -> None:
    params = QuantParams.from_range(*limits)
    x = np.random.default_rng(seed).normal(scale=params.high - params.low, size=50).astype(np.float32)
    np.testing.assert_array_equal(fake_quantize(x, params), params.dequantize(params.quantize(x)))


def test_fake_quantized_weights_are_what_int8_weights_stand_for() -> None:
    w = np.random.default_rng(0).normal(size=(5, 3, 3, 2)).astype(np.float32)
    w[2] = 0
    scales = weight_scales(w)
    real = quantize_weights(w, scales).astype(np.float32) * scales[:, None, None, None]
    np.testing.assert_array_equal(fake_quantize_weights(w), real)


@given(st.integers(0, 10_000))
def test_rounding_weights_commutes_with_a_factor_per_channel(seed: int) -> None:
    """Why training can round before batch norm: folding after rounding gives the same integers."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(4, 1, 1, 6)).astype(np.float32)
    factor = (2.0 ** rng.integers(-6, 6, size=4) * rng.choice([-1, 1], 4)).astype(np.float32)
    folded = w * factor[:, None, None, None]
    direct = quantize_weights(folded, weight_scales(folded))
    signs = np.sign(factor).astype(np.int8)[:, None, None, None]
    np.testing.assert_array_equal(direct, quantize_weights(w, weight_scales(w)) * signs)


@given(st.floats(1e-9, 1e6))
def test_a_fixed_point_multiplier_is_within_its_31_bits(real: float) -> None:
    multiplier, shift = quantize_multiplier(real)
    assert 1 << 30 <= multiplier < 1 << 31
    assert abs(multiplier * 2.0 ** (shift - 31) / real - 1) <= 2.0**-31


def test_multipliers_at_the_borders() -> None:
    assert quantize_multiplier(0.0) == (0, 0)
    assert quantize_multiplier(1.0) == (1 << 30, 1)
    assert quantize_multiplier(2.0**-40) == (0, 0)
    assert quantize_multiplier(math.nextafter(1.0, 0.0)) == (1 << 30, 1)
    with pytest.raises(QuantError, match="too large"):
        quantize_multiplier(2.0**40)


def _gemmlowp(x: int, multiplier: int, shift: int) -> int:
    """Gemmlowp's two roundings, written with Python's whole numbers and C's division."""
    left, right = max(shift, 0), max(-shift, 0)
    product = (x << left) * multiplier
    nudge = 1 << 30 if product >= 0 else 1 - (1 << 30)
    total = Fraction(product + nudge, 1 << 31)
    high = math.floor(total) if total >= 0 else math.ceil(total)
    mask = (1 << right) - 1
    return (high >> right) + (1 if high & mask > (mask >> 1) + (1 if high < 0 else 0) else 0)


@given(st.integers(-(1 << 24), 1 << 24), st.floats(1e-6, 3.0))
def test_scaling_is_gemmlowps(x: int, real: float) -> None:
    multiplier, shift = quantize_multiplier(real)
    got = multiply_by_quantized_multiplier(np.array([x]), np.array(multiplier), np.array(shift))
    assert int(got[0]) == _gemmlowp(x, multiplier, shift)
    assert abs(int(got[0]) - x * real) <= 0.5 + 2.0**-6 + abs(x * real) * 2.0**-30 + 0.5


def test_scaling_rounds_halves_away_from_zero() -> None:
    multiplier, shift = quantize_multiplier(0.25)
    x = np.array([-6, -2, 2, 6])
    assert multiply_by_quantized_multiplier(x, np.array(multiplier), np.array(shift)).tolist() == [
        -2,
        -1,
        1,
        2,
    ]


def test_requantize_adds_the_zero_point_and_clips() -> None:
    multiplier, shift = quantize_multiplier(0.5)
    q = requantize(
        np.array([[-1000, 3, 1000]], np.int32),
        np.array([multiplier], np.int32),
        np.array([shift], np.int32),
        -10,
        -10,
        127,
    )
    assert q.dtype == np.int8
    assert q.tolist() == [[-10, -8, 127]]


def test_points_are_the_ends_of_chains() -> None:
    points = quantization_points(bypass_network())
    assert list(points) == [
        "input",
        "conv1/relu",
        "fire2/squeeze/relu",
        "fire2/relu",
        "bypass2",
        "classifier",
    ]
    assert points["conv1/relu"] == "conv1/relu/range"


def test_pooling_and_dropout_share_the_range_of_what_they_read() -> None:
    names = range_names(bypass_network(positions=2))
    assert names["pool1"] == names["conv1/relu"]
    assert names["dropout"] == names["bypass2"]
    assert names["matrix"] == names["average"] == names["classifier"]
    assert "conv1" not in names
    assert "fire2/concat" not in names


def test_branches_of_a_concat_share_its_range() -> None:
    graph = Graph(
        (
            Input("input", (), (4, 4, 1)),
            Conv2D("a", ("input",), 2),
            Relu("ra", ("a",)),
            MaxPool("pa", ("ra",), (3, 3), (1, 1), (1, 1, 1, 1)),
            Conv2D("b", ("input",), 2),
            Concat("joined", ("pa", "b")),
            GlobalAveragePool("mean", ("joined",)),
        )
    )
    assert quantization_points(graph) == {
        "input": "input/range",
        "ra": "joined/range",
        "joined": "joined/range",
    }
    assert range_names(graph)["b"] == "joined/range"


def test_a_clipped_relu_ends_a_chain_as_a_relu_does() -> None:
    graph = Graph(
        (
            Input("input", (), (4, 4, 2)),
            DepthwiseConv2D("d", ("input",), 2, (3, 3)),
            BatchNorm("n", ("d",)),
            ClippedRelu("six", ("n",)),
            AveragePool("pool", ("six",), (2, 2), (1, 1)),
            GlobalAveragePool("mean", ("pool",)),
        )
    )
    assert list(quantization_points(graph)) == ["input", "six"]
    assert range_names(graph)["mean"] == "six/range"


def test_an_activation_or_norm_that_nothing_takes_in_is_rounded_beside_what_it_reads() -> None:
    graph = Graph(
        (
            Input("input", (), (4, 4, 2)),
            Conv2D("c", ("input",), 2),
            MaxPool("pool", ("c",), (2, 2), (1, 1)),
            Relu("pool/relu", ("pool",)),
            Add("sum", ("pool/relu", "pool")),
            BatchNorm("norm", ("sum",)),
            Relu("norm/relu", ("norm",)),
            Concat("joined", ("norm/relu", "pool")),
            ClippedRelu("joined/relu", ("joined",)),
            GlobalAveragePool("mean", ("joined/relu",)),
        )
    )
    points = quantization_points(graph)
    assert list(points) == ["input", "c", "pool/relu", "sum", "joined", "joined/relu"]
    assert points["c"] == range_names(graph)["norm/relu"] == "joined/range"


def test_the_convolutions_of_nested_concats_take_in_the_activation_behind_the_last() -> None:
    graph = Graph(
        (
            Input("input", (), (4, 4, 2)),
            Conv2D("a", ("input",), 2),
            DepthwiseConv2D("b", ("input",), kernel=(1, 1)),
            Concat("inner", ("a", "b")),
            Conv2D("c", ("input",), 2),
            Concat("outer", ("c", "inner")),
            ClippedRelu("six", ("outer",)),
            GlobalAveragePool("mean", ("six",)),
        )
    )
    assert list(quantization_points(graph)) == ["input", "six"]
    for name in ("a", "b", "inner", "c", "outer"):
        assert activation_behind(graph, graph.by_name[name]) is graph.by_name["six"]


def test_a_range_is_held_to_a_ceiling() -> None:
    ranges = {"a/range": np.array([0.0, 8.0], np.float32)}
    assert range_params(ranges, "a/range").high == pytest.approx(8.0)
    assert range_params(ranges, "a/range", 6.0).high == pytest.approx(6.0)


def test_a_missing_range_says_to_calibrate() -> None:
    with pytest.raises(QuantError, match="calibrate"):
        range_params({}, "conv1/relu/range")
