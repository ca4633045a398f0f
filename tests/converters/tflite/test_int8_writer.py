from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from emberfleet.converters.tflite.int8_writer import draw_int8, write_tflite_int8
from emberfleet.converters.tflite.model import OperatorKind
from emberfleet.core.arrays import Float32, Int8
from emberfleet.core.errors import ConversionError
from emberfleet.core.graph import Graph
from emberfleet.core.integer import IntegerConv, IntegerNetwork
from emberfleet.core.lowering import quantize
from emberfleet.core.nodes import (
    AveragePool,
    Conv2D,
    DepthwiseConv2D,
    GlobalAveragePool,
    Input,
    MaxPool,
    Padding,
    Relu,
    Reshape,
)
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.train.calibration import calibrate
from emberfleet.train.models import mobilenet, resnet, small_squeezenet
from tests.converters.plain_int8 import run_plain, run_plain_tensors
from tests.converters.tflite.interpreter import run_tflite
from tests.converters.tflite.random_graphs import random_graphs
from tests.core.networks import bypass_network, mobile_network, random_tensors


def calibrated(graph: Graph, seed: int = 0) -> IntegerNetwork:
    """Random weights, ranges as observed on random images."""
    tensors: dict[str, Float32] = random_tensors(graph, seed)
    images = np.random.default_rng(seed).random((4, *graph.input.shape), dtype=np.float32)
    return quantize(graph, {**tensors, **calibrate(graph, tensors, images)})


def random_images(network: IntegerNetwork, count: int, seed: int = 1) -> Int8:
    shape = (count, *network.input_tensor.shape)
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def kinds(network: IntegerNetwork) -> list[OperatorKind]:
    return [op.kind for op in draw_int8(network).operators]


NETWORKS = {
    "bypass": lambda: bypass_network(),
    "fourteen positions": lambda: bypass_network(positions=14, classes=37, side=15),
    "small": lambda: small_squeezenet(width=0.5, bypass=True),
    "colour, halved at the start": lambda: small_squeezenet(size=48, channels=3, width=0.5, positions=3),
    "mobile": lambda: mobile_network(),
    "mobilenet": lambda: mobilenet(size=32, classes=10, width=0.25),
    "resnet": lambda: resnet(8, width=0.5),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_reference_kernels_give_the_same_bits(name: str) -> None:
    network = calibrated(NETWORKS[name]())
    q = random_images(network, 3)
    want = run_plain(network, q)
    assert want.std() > 4
    np.testing.assert_array_equal(run_tflite(write_tflite_int8(network), q, reference=True), want)
    np.testing.assert_array_equal(NumpyBackend().integer_predictor(network, 3).run_integer(q), want)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "mobilenet"])
def test_xnnpack_is_within_one_step(name: str) -> None:
    network = calibrated(NETWORKS[name]())
    q = random_images(network, 3)
    found = run_tflite(write_tflite_int8(network), q, reference=False)
    assert np.abs(found.astype(int) - run_plain(network, q)).max() <= 1


@pytest.mark.parametrize("name", ["small", "mobilenet"])
def test_xnnpack_is_within_one_step_at_every_operator_of_a_deep_network(name: str) -> None:
    """Over 28 layers single steps add up; each operator, given the same input, is at most one away."""
    network = calibrated(NETWORKS[name]())
    values = run_plain_tensors(network, random_images(network, 2))
    for op in network.ops:
        if len(op.inputs) == 1 and len(network.tensors[op.inputs[0]].shape) == 3:
            held = {tensor: network.tensors[tensor] for tensor in (op.inputs[0], op.output)}
            alone = IntegerNetwork(op.inputs[0], op.output, held, (op,))
            found = run_tflite(write_tflite_int8(alone), values[op.inputs[0]], reference=False)
            assert np.abs(found.astype(int) - values[op.output]).max() <= 1


@settings(max_examples=200, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_graphs())
def test_random_graphs_give_the_same_bits_and_one_step_with_xnnpack(graph: Graph) -> None:
    network = calibrated(graph)
    q = random_images(network, 2)
    data, want = write_tflite_int8(network), run_plain(network, q)
    np.testing.assert_array_equal(run_tflite(data, q, reference=True), want)
    assert np.abs(run_tflite(data, q, reference=False).astype(int) - want).max() <= 1


def _padded_pool(relu: bool) -> IntegerNetwork:
    """A pool whose padding is neither SAME nor VALID, over values that do or do not start at zero."""
    activation = (Relu("relu", ("conv",)),) if relu else ()
    graph = Graph(
        (
            Input("input", (), (6, 6, 1)),
            Conv2D("conv", ("input",), 2),
            *activation,
            MaxPool("pool", ("relu" if relu else "conv",), (3, 3), (1, 1), (2, 0, 1, 2)),
            GlobalAveragePool("mean", ("pool",)),
        )
    )
    return calibrated(graph)


def test_a_pool_after_a_relu_is_padded_with_its_zero_point() -> None:
    assert OperatorKind.PAD in kinds(_padded_pool(relu=True))


def test_a_pool_of_signed_values_is_padded_with_the_lowest() -> None:
    network = _padded_pool(relu=False)
    assert OperatorKind.PADV2 in kinds(network)
    q = random_images(network, 2)
    found = run_tflite(write_tflite_int8(network), q, reference=True)
    np.testing.assert_array_equal(found, run_plain(network, q))


def test_the_small_model_needs_no_padding_operator() -> None:
    assert not {OperatorKind.PAD, OperatorKind.PADV2} & set(kinds(calibrated(small_squeezenet())))


def test_an_image_reshaped_to_a_matrix_runs() -> None:
    graph = Graph(
        (
            Input("input", (), (3, 2, 1)),
            Conv2D("conv", ("input",), 4),
            Reshape("matrix", ("conv",), (6, 4)),
        )
    )
    network = calibrated(graph)
    q = random_images(network, 2)
    found = run_tflite(write_tflite_int8(network), q, reference=True)
    np.testing.assert_array_equal(found, run_plain(network, q))


def test_the_signature_names_both_ends() -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
    network = calibrated(bypass_network())
    q = random_images(network, 1)
    runner = interpreter.Interpreter(model_content=write_tflite_int8(network)).get_signature_runner()
    found = runner(image=q)["scores"]
    assert np.abs(found.astype(int) - run_plain(network, q)).max() <= 1


def test_the_same_network_gives_the_same_bytes() -> None:
    assert write_tflite_int8(calibrated(bypass_network())) == write_tflite_int8(calibrated(bypass_network()))


def test_the_small_model_takes_little_more_than_its_weights() -> None:
    network = calibrated(small_squeezenet())
    weights = sum(op.weights.size for op in network.ops if isinstance(op, IntegerConv))
    assert len(write_tflite_int8(network)) < 1.3 * weights


@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (0, 1, 2, 0), (2, 0, 0, 0), (0, 0, 0, 1), (0, 0, 0, 0)])
@pytest.mark.parametrize("size", [(6, 6), (7, 4), (3, 2)])
def test_padding_never_counts_in_an_average(padding: Padding, size: tuple[int, int]) -> None:
    graph = Graph(
        (
            Input("input", (), (*size, 2)),
            Conv2D("conv", ("input",), 5),
            AveragePool("pool", ("conv",), (3, 3 if size[1] > 2 else 2), (2, 1), padding),
            Conv2D("head", ("pool",), 3),
            GlobalAveragePool("mean", ("head",)),
        )
    )
    network = calibrated(graph)
    q = random_images(network, 3)
    found = run_tflite(write_tflite_int8(network), q, reference=True)
    np.testing.assert_array_equal(found, run_plain(network, q))


def test_depthwise_weights_are_quantized_along_their_last_axis() -> None:
    graph = Graph(
        (
            Input("input", (), (6, 6, 3)),
            DepthwiseConv2D("depthwise", ("input",), 2, (3, 3), (1, 1), (1, 1, 1, 1)),
            GlobalAveragePool("mean", ("depthwise",)),
        )
    )
    weights = next(t for t in draw_int8(calibrated(graph)).tensors if t.name == "depthwise/w")
    assert weights.shape == (1, 3, 3, 6)
    assert weights.quantization is not None
    assert (len(weights.quantization.scales), weights.quantization.axis) == (6, 3)


def test_float_in_and_out_are_rounded_as_the_reference_rounds_them() -> None:
    network = calibrated(mobile_network())
    pixels = np.random.default_rng(5).integers(0, 256, (3, *network.input_tensor.shape))
    x = (pixels / 255).astype(np.float32)
    found = run_tflite(write_tflite_int8(network, float_io=True), x, reference=True)
    np.testing.assert_array_equal(found, NumpyBackend().integer_predictor(network, 3).run(x))


def test_float_out_can_be_probabilities() -> None:
    network = calibrated(bypass_network(positions=2))
    x = np.random.default_rng(5).random((3, *network.input_tensor.shape), dtype=np.float32)
    logits = run_tflite(write_tflite_int8(network, float_io=True), x, reference=True)
    found = run_tflite(write_tflite_int8(network, float_io=True, softmax=True), x, reference=True)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    np.testing.assert_allclose(found, powers / powers.sum(axis=-1, keepdims=True), rtol=1e-5)
    with pytest.raises(ConversionError, match="float in and out"):
        write_tflite_int8(network, softmax=True)
