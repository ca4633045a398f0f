from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from emberfleet.core.arrays import Int8
from emberfleet.core.errors import ShapeError
from emberfleet.core.graph import Graph
from emberfleet.core.integer import (
    ADD_LEFT_SHIFT,
    IntegerAdd,
    IntegerAveragePool,
    IntegerConcat,
    IntegerConv,
    IntegerDepthwiseConv,
    IntegerMaxPool,
    IntegerNetwork,
    IntegerRelu,
    IntegerWindowAveragePool,
    output_limits,
)
from emberfleet.core.lowering import quantize
from emberfleet.core.nodes import (
    Add,
    AveragePool,
    ClippedRelu,
    Conv2D,
    DepthwiseConv2D,
    GlobalAveragePool,
    Input,
    MaxPool,
    Padding,
    Relu,
    Reshape,
)
from emberfleet.core.quantization import quantization_points
from emberfleet.engine.numpy_backend import integer
from emberfleet.engine.numpy_backend.activations import activations
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from tests.core.networks import bypass_network, random_tensors
from tests.engine.networks import MOBILE_NETWORKS


def strided_network() -> Graph:
    """Strides, lopsided padding, a ReLU of its own, positions x classes."""
    return Graph(
        (
            Input("input", (), (7, 8, 3)),
            Relu("positive", ("input",)),
            Conv2D("c1", ("positive",), 5, (3, 2), (2, 3), (0, 1, 2, 0)),
            Conv2D("c2", ("c1",), 5, (2, 2), (1, 1), (1, 1, 0, 0)),
            Add("sum", ("c1", "c2")),
            Relu("sum/relu", ("sum",)),
            MaxPool("pool", ("sum/relu",), (2, 2), (3, 2), (1, 0, 0, 1)),
            Conv2D("c3", ("pool",), 6),
            GlobalAveragePool("average", ("c3",)),
            Reshape("matrix", ("average",), (3, 2)),
        )
    )


NETWORKS = {"fire with bypass": bypass_network(), "strides": strided_network(), **MOBILE_NETWORKS}
ROUNDED = {"fire with bypass": bypass_network(), **MOBILE_NETWORKS}


def half_away(value: Fraction) -> int:
    """Nearest integer, halves away from zero."""
    size = math.floor(abs(value) + Fraction(1, 2))
    return size if value >= 0 else -size


def fixed_point(x: int, multiplier: int, shift: int) -> int:
    """Gemmlowp's two roundings, in integers of any size."""
    product_ = (x << max(shift, 0)) * multiplier
    # C divides the nudged product towards zero.
    nudged = product_ + (1 << 30 if product_ >= 0 else 1 - (1 << 30))
    high = abs(nudged) // (1 << 31) * (1 if nudged >= 0 else -1)
    return half_away(Fraction(high, 1 << max(-shift, 0)))


def clip(value: int, low: int = -128, high: int = 127) -> int:
    return max(low, min(high, value))


def plain_run(network: IntegerNetwork, q: Int8) -> Int8:
    """Every operation value by value in Python integers, for one image ``(H, W, C)``."""
    values = {network.input: q.astype(object)}
    for op in network.ops:
        given = [values[name] for name in op.inputs]
        out = network.tensors[op.output]
        points = [network.tensors[name].params.zero_point for name in op.inputs]
        y = np.empty(out.shape, object)
        x = given[0]
        if isinstance(op, IntegerConv):
            low, high = output_limits(op, out.params)
            for h, w, o in np.ndindex(*out.shape):
                acc = int(op.bias[o])
                for i, j, c in np.ndindex(*op.weights.shape[1:]):
                    p, q_ = h * op.stride[0] + i - op.padding[0], w * op.stride[1] + j - op.padding[1]
                    if 0 <= p < x.shape[0] and 0 <= q_ < x.shape[1]:
                        acc += (int(x[p, q_, c]) - points[0]) * int(op.weights[o, i, j, c])
                scaled = fixed_point(acc, int(op.multiplier[o]), int(op.shift[o]))
                y[h, w, o] = clip(scaled + out.params.zero_point, low, high)
        elif isinstance(op, IntegerDepthwiseConv):
            low, high = output_limits(op, out.params)
            for h, w, o in np.ndindex(*out.shape):
                acc = int(op.bias[o])
                for i, j in np.ndindex(*op.weights.shape[1:3]):
                    p, q_ = h * op.stride[0] + i - op.padding[0], w * op.stride[1] + j - op.padding[1]
                    if 0 <= p < x.shape[0] and 0 <= q_ < x.shape[1]:
                        value = int(x[p, q_, o // op.depth_multiplier]) - points[0]
                        acc += value * int(op.weights[o, i, j, 0])
                scaled = fixed_point(acc, int(op.multiplier[o]), int(op.shift[o]))
                y[h, w, o] = clip(scaled + out.params.zero_point, low, high)
        elif isinstance(op, IntegerWindowAveragePool):
            for h, w, c in np.ndindex(*out.shape):
                top, left = h * op.stride[0] - op.padding[0], w * op.stride[1] - op.padding[1]
                rows, columns = range(top, top + op.kernel[0]), range(left, left + op.kernel[1])
                inside = [
                    int(x[p, q_, c])
                    for p, q_ in product(rows, columns)
                    if 0 <= p < x.shape[0] and 0 <= q_ < x.shape[1]
                ]
                y[h, w, c] = half_away(Fraction(sum(inside), len(inside)))
        elif isinstance(op, IntegerMaxPool):
            for h, w, c in np.ndindex(*out.shape):
                y[h, w, c] = max(
                    x[p, q_, c]
                    for p, q_ in product(
                        range(
                            h * op.stride[0] - op.padding[0], h * op.stride[0] - op.padding[0] + op.kernel[0]
                        ),
                        range(
                            w * op.stride[1] - op.padding[1], w * op.stride[1] - op.padding[1] + op.kernel[1]
                        ),
                    )
                    if 0 <= p < x.shape[0] and 0 <= q_ < x.shape[1]
                )
        elif isinstance(op, IntegerAveragePool):
            for c in range(out.shape[0]):
                total = sum(int(v) for v in x[:, :, c].reshape(-1))
                y[c] = half_away(Fraction(total, x.shape[0] * x.shape[1]))
        elif isinstance(op, IntegerConcat):
            y = np.concatenate(given, axis=-1)
        elif isinstance(op, IntegerAdd):
            for place in np.ndindex(*out.shape):
                total = sum(
                    fixed_point((int(v[place]) - point) << ADD_LEFT_SHIFT, m, s)
                    for v, point, m, s in zip(given, points, op.multipliers[:2], op.shifts[:2], strict=True)
                )
                scaled = fixed_point(total, op.multipliers[2], op.shifts[2])
                y[place] = clip(scaled + out.params.zero_point, *output_limits(op, out.params))
        elif isinstance(op, IntegerRelu):
            for place in np.ndindex(*out.shape):
                scaled = fixed_point(int(x[place]) - points[0], op.multiplier, op.shift)
                y[place] = clip(scaled + out.params.zero_point, *output_limits(op, out.params))
        else:
            y = x.reshape(out.shape)
        values[op.output] = y
    return values[network.output].astype(np.int8)


@pytest.mark.parametrize("graph", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_predictor_is_the_plain_integer_loop_bit_for_bit(graph: Graph, seed: int) -> None:
    network = quantize(graph, random_tensors(graph, seed))
    predictor = NumpyBackend().integer_predictor(network, batch=2)
    q = np.random.default_rng(seed).integers(-128, 128, (3, *graph.input.shape)).astype(np.int8)
    found = predictor.run_integer(q)
    np.testing.assert_array_equal(found, np.stack([plain_run(network, image) for image in q]))
    assert len(np.unique(found)) > 3


def test_sums_are_exact_at_both_ends_of_int8_whatever_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph(
        (
            Input("input", (), (1, 1, 3000)),
            Conv2D("dense", ("input",), 2),
            Reshape("flat", ("dense",), (2,)),
        )
    )
    tensors = random_tensors(graph)
    network = quantize(graph, tensors)
    (conv,) = (op for op in network.ops if isinstance(op, IntegerConv))
    conv.weights[:] = np.where(np.arange(3000) % 3, 127, -127)
    q = np.random.default_rng(0).choice(np.array([-128, 127], np.int8), (4, 1, 1, 3000))
    kernel = integer._prepare(conv, network.input_tensor.params.zero_point)
    assert kernel.matrix.dtype == np.float64
    found = integer.convolve(conv, kernel, q, network.input_tensor.params.zero_point)
    centred = q.reshape(4, -1).astype(object) - network.input_tensor.params.zero_point
    expected = centred @ conv.weights.reshape(2, -1).T.astype(object) + conv.bias
    np.testing.assert_array_equal(found.reshape(4, 2), expected.astype(np.int64))


@pytest.mark.parametrize("graph", ROUNDED.values(), ids=ROUNDED)
def test_float_images_go_in_and_logits_near_those_of_fake_quantization_come_out(graph: Graph) -> None:
    tensors = random_tensors(graph)
    x = np.random.default_rng(3).uniform(0, 1, (8, *graph.input.shape)).astype(np.float32)
    points = quantization_points(graph)
    seen = activations(graph, {name: tensors[name] for name in (*graph.parameters, *graph.state)}, x, points)
    for name in set(points.values()):
        values = np.concatenate([seen[point].ravel() for point in points if points[point] == name])
        tensors[name] = np.array([values.min(), values.max()], np.float32)
    network = quantize(graph, tensors)
    found = NumpyBackend().integer_predictor(network, batch=8).run(x)
    expected = NumpyBackend().predictor(graph, tensors, 8, fake_quantize=True).run(x)
    step = network.output_tensor.params.scale
    assert np.abs(found - expected).max() <= 4.0 * step
    assert np.abs(found - expected).mean() <= step


def test_images_of_another_shape_or_type_are_refused() -> None:
    graph = bypass_network()
    predictor = NumpyBackend().integer_predictor(quantize(graph, random_tensors(graph)), batch=2)
    with pytest.raises(ShapeError, match="int8"):
        predictor.run_integer(np.zeros((1, 9, 9, 2), np.uint8))
    with pytest.raises(ShapeError, match=r"expected \(n, 9, 9, 2\)"):
        predictor.run_integer(np.zeros((1, 9, 2), np.int8))


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.integers(1, 4),
    depth_multiplier=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)),
    seed=st.integers(0, 1000),
)
def test_depthwise_and_window_pooling_are_exact_in_every_shape(
    size: tuple[int, int],
    channels: int,
    depth_multiplier: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: Padding,
    seed: int,
) -> None:
    top, left, bottom, right = padding
    assume(size[0] + top + bottom >= kernel[0] and size[1] + left + right >= kernel[1])
    pooled = tuple(min(pad, side - 1) for pad, side in zip(padding, kernel * 2, strict=True))
    assume(size[0] + pooled[0] + pooled[2] >= kernel[0] and size[1] + pooled[1] + pooled[3] >= kernel[1])
    graph = Graph(
        (
            Input("input", (), (*size, channels)),
            AveragePool("pool", ("input",), kernel, (1, 1), (pooled[0], pooled[1], pooled[2], pooled[3])),
            DepthwiseConv2D("one", ("pool",), 1, (1, 1)),
            DepthwiseConv2D("depthwise", ("input",), depth_multiplier, kernel, stride, padding),
            ClippedRelu("clipped", ("depthwise",), 2.0),
            GlobalAveragePool("a", ("one",)),
            Conv2D("narrow", ("clipped",), channels),
            GlobalAveragePool("b", ("narrow",)),
            Add("sum", ("a", "b")),
        )
    )
    network = quantize(graph, random_tensors(graph, seed))
    q = np.random.default_rng(seed).integers(-128, 128, (1, *size, channels)).astype(np.int8)
    found = NumpyBackend().integer_predictor(network, 1).run_integer(q)
    np.testing.assert_array_equal(found[0], plain_run(network, q[0]))


def test_large_depthwise_kernels_are_summed_exactly() -> None:
    graph = Graph(
        (
            Input("input", (), (25, 25, 1)),
            DepthwiseConv2D("d", ("input",), 1, (25, 25)),
            Reshape("flat", ("d",), (1,)),
        )
    )
    (op,) = (op for op in quantize(graph, random_tensors(graph)).ops if isinstance(op, IntegerDepthwiseConv))
    op.weights[:] = 127
    op.weights[0, 0, 0] = 126
    x = np.full((1, 25, 25, 1), 127, np.int8)
    found = integer.convolve_depthwise(op, x, -128)
    assert found.ravel().tolist() == [255 * (127 * 625 - 1) + int(op.bias[0])]
