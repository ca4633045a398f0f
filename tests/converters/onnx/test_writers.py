"""What we write, run by ONNX Runtime, and read back."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnx.checker
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emberfleet.converters.onnx.drawing import INPUT, OPSET, OUTPUT
from emberfleet.converters.onnx.float_writer import write_onnx_float
from emberfleet.converters.onnx.importer import import_onnx
from emberfleet.converters.onnx.int8_writer import write_onnx_int8
from emberfleet.core.arrays import Float32
from emberfleet.core.graph import Graph
from emberfleet.core.integer import (
    IntegerAveragePool,
    IntegerConv,
    IntegerDepthwiseConv,
    IntegerNetwork,
    IntegerWindowAveragePool,
)
from emberfleet.core.lowering import quantize
from emberfleet.core.nodes import (
    Add,
    AveragePool,
    BatchNorm,
    ClippedRelu,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    Dropout,
    GlobalAveragePool,
    Input,
    MaxPool,
    Relu,
    Reshape,
    Softmax,
)
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.train.calibration import calibrate
from emberfleet.train.models import small_squeezenet
from tests.converters.onnx.networks import error, images, run
from tests.converters.tflite.random_graphs import random_graphs
from tests.core.networks import random_tensors

ALLOWED = 1e-4
FEW = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@cache
def every_node(positions: int = 1) -> Graph:
    """Each kind of node at least once, on an image that is no square."""
    nodes = (
        Input("image", (), (11, 9, 3)),
        Conv2D("stem", ("image",), 8, (3, 3), (2, 1), (1, 0, 0, 1), bias=False),
        BatchNorm("norm", ("stem",)),
        ClippedRelu("six", ("norm",), 6.0),
        DepthwiseConv2D("depth", ("six",), 2, (3, 3), (1, 1), (1, 1, 1, 1)),
        ClippedRelu("low", ("depth",), 0.75),
        AveragePool("mean", ("low",), (2, 2), (2, 2), (0, 0, 0, 1)),
        BatchNorm("alone", ("mean",)),
        Relu("relu", ("alone",)),
        Conv2D("left", ("relu",), 4),
        Conv2D("right", ("relu",), 4, (3, 3), padding=(1, 1, 1, 1)),
        Concat("both", ("left", "right")),
        Relu("wide", ("both",)),
        Conv2D("bypass", ("wide",), 8),
        Add("sum", ("bypass", "wide")),
        MaxPool("max", ("sum",), (2, 2), (1, 1), (1, 0, 0, 0)),
        Relu("lone", ("max",)),
        Dropout("drop", ("lone",), 0.5),
        Conv2D("hidden", ("drop",), 5, (2, 2), (2, 2)),
        GlobalAveragePool("pool", ("hidden",)),
        Reshape("pixel", ("pool",), (1, 1, 5)),
        Conv2D("head", ("pixel",), 6 * positions),
        Reshape("matrix", ("head",), (6,) if positions == 1 else (positions, 6)),
    )
    return Graph(nodes)


def channels_first(x: Float32) -> Float32:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def calibrated(graph: Graph, seed: int = 0) -> IntegerNetwork:
    """Random weights, ranges as observed on what is later computed."""
    tensors = random_tensors(graph, seed)
    ranges = calibrate(graph, tensors, images(4, graph.input.shape))
    wide = {
        name: r if r[1] - r[0] > 0.1 else r + np.array([0, 0.1], np.float32) for name, r in ranges.items()
    }
    return quantize(graph, {**tensors, **wide})


def check_float(graph: Graph, seed: int = 0) -> None:
    tensors = random_tensors(graph, seed)
    x = images(3, graph.input.shape)
    expected = NumpyBackend().predictor(graph, tensors, 3).run(x)
    data = write_onnx_float(graph, tensors)
    onnx.checker.check_model(data, full_check=True)
    scores = run(data, channels_first(x))
    assert scores.shape == expected.shape
    assert error(scores, expected) <= ALLOWED
    back = import_onnx(data)
    assert error(NumpyBackend().predictor(back.graph, back.tensors, 3).run(x), expected) <= ALLOWED


@pytest.mark.parametrize("positions", [1, 3])
def test_every_kind_of_node_gives_the_same_scores_in_onnx_runtime_and_read_back(positions: int) -> None:
    check_float(every_node(positions))


@given(random_graphs(), st.integers(0, 1000))
@FEW
def test_any_network_gives_the_same_scores_in_onnx_runtime_and_read_back(graph: Graph, seed: int) -> None:
    check_float(graph, seed)


@pytest.mark.parametrize(
    ("before", "after"), [((4, 1, 1), (2, 2)), ((2, 3, 4), (24,)), ((2, 3, 4), (6, 4)), ((1, 1, 3), (3,))]
)
def test_a_reshape_takes_values_in_our_order(before: tuple[int, int, int], after: tuple[int, ...]) -> None:
    check_float(Graph((Input("x", (), before), Relu("r", ("x",)), Reshape("y", ("r",), after))))


def test_a_vector_becomes_an_image_in_our_order() -> None:
    nodes = (
        Input("x", (), (2, 2, 12)),
        GlobalAveragePool("m", ("x",)),
        Reshape("i", ("m",), (2, 3, 2)),
        Conv2D("c", ("i",), 4, (2, 3)),
        Reshape("y", ("c",), (4,)),
        Softmax("s", ("y",)),
    )
    check_float(Graph(nodes))


def test_the_file_says_what_goes_in_and_out() -> None:
    graph = every_node()
    for data in (write_onnx_float(graph, random_tensors(graph, 0)), write_onnx_int8(calibrated(graph))):
        made = onnx.ModelProto.FromString(data)
        (image,), (scores,) = made.graph.input, made.graph.output
        shapes = [[d.dim_value or d.dim_param for d in e.type.tensor_type.shape.dim] for e in (image, scores)]
        assert (image.name, scores.name) == (INPUT, OUTPUT)
        assert shapes == [["N", 3, 11, 9], ["N", 6]]
        assert made.opset_import[0].version == OPSET == 17
        onnx.checker.check_model(data, full_check=True)


def test_the_same_network_gives_the_same_bytes() -> None:
    graph = every_node()
    tensors = random_tensors(graph, 0)
    assert write_onnx_float(graph, tensors) == write_onnx_float(graph, tensors)
    assert write_onnx_int8(calibrated(graph)) == write_onnx_int8(calibrated(graph))


def test_nodes_named_like_the_ends_are_told_apart() -> None:
    nodes = (
        Input("scores", (), (4, 4, 3)),
        Conv2D("image", ("scores",), 2),
        GlobalAveragePool("x", ("image",)),
    )
    check_float(Graph(nodes))


@pytest.mark.parametrize("optimize", [False, True])
def test_every_operation_in_int8_is_within_one_step_of_ours(optimize: bool) -> None:
    """Each alone, on the same int8 values, so that no other operation's rounding is in between."""
    network = calibrated(every_node())
    seen = set()
    for op in network.ops:
        if len(op.inputs) != 1 or len(network.tensors[op.inputs[0]].shape) != 3:
            continue
        seen.add(type(op).__name__)
        alone = IntegerNetwork(op.inputs[0], op.output, network.tensors, (op,))
        shape, params = alone.input_tensor.shape, alone.input_tensor.params
        q = np.random.default_rng(0).integers(-128, 128, (4, *shape)).astype(np.int8)
        expected = NumpyBackend().integer_predictor(alone, 4).run_integer(q)
        x = params.dequantize(q)
        scores = run(write_onnx_int8(alone), channels_first(x) if x.ndim == 4 else x, optimize)
        if scores.ndim == 4:
            scores = scores.transpose(0, 2, 3, 1)
        found = alone.output_tensor.params.quantize(scores)
        steps = np.abs(found.astype(np.int32) - expected.reshape(found.shape))
        assert steps.max() <= 1, op.output
        # A mean is often half-way between two integers: away from zero with us, to the even one there.
        means = isinstance(op, IntegerAveragePool | IntegerWindowAveragePool)
        assert (steps == 0).mean() > (0.8 if means else 0.97), op.output
    assert len(seen) == 7


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("positions", [1, 3])
def test_scores_in_int8_are_those_of_our_reference_within_one_step(positions: int, optimize: bool) -> None:
    network = calibrated(small_squeezenet(width=0.5, bypass=True, positions=positions))
    steps = steps_between(network, optimize)
    assert steps.max() <= 1
    assert (steps == 0).mean() > 0.9


@pytest.mark.parametrize("optimize", [False, True])
def test_scores_of_every_kind_of_node_in_int8_stay_close(optimize: bool) -> None:
    """Steps add up from layer to layer, most of all behind means over windows and with random weights."""
    steps = steps_between(calibrated(every_node(3)), optimize)
    assert steps.max() <= 4
    assert (steps <= 1).mean() > 0.95


def steps_between(network: IntegerNetwork, optimize: bool) -> Float32:
    """How far the scores of ONNX Runtime are from our reference, in steps of int8."""
    x = images(64, network.input_tensor.shape)
    expected = NumpyBackend().integer_predictor(network, 64).run(x)
    scores = run(write_onnx_int8(network), channels_first(x), optimize)
    assert scores.shape == expected.shape
    return np.asarray(np.rint(np.abs(scores - expected) / network.output_tensor.params.scale), np.float32)


def test_weights_and_scales_in_the_file_are_those_of_our_network() -> None:
    network = calibrated(every_node())
    made = onnx.ModelProto.FromString(write_onnx_int8(network))
    held = {entry.name: onnx.numpy_helper.to_array(entry) for entry in made.graph.initializer}
    for op in network.ops:
        if isinstance(op, IntegerConv | IntegerDepthwiseConv):
            np.testing.assert_array_equal(held[f"{op.output}/weights"], op.weights.transpose(0, 3, 1, 2))
            np.testing.assert_array_equal(held[f"{op.output}/weight_scales"], op.weight_scales)
            np.testing.assert_array_equal(held[f"{op.output}/bias"], op.bias)
        params = network.tensors[op.output].params
        assert held[f"{op.output}/scale"] == np.float32(params.scale)
        assert held[f"{op.output}/zero_point"] == params.zero_point


def test_a_ceiling_is_where_the_int8_range_ends() -> None:
    nodes = (Input("x", (), (3, 3, 2)), ClippedRelu("six", ("x",), 0.5), GlobalAveragePool("y", ("six",)))
    network = calibrated(Graph(nodes))
    scores = run(write_onnx_int8(network), np.full((1, 2, 3, 3), 2.0, np.float32))
    assert scores == pytest.approx(0.5, abs=network.output_tensor.params.scale)
