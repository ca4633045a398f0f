from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from emberfleet.converters.tflite.float_writer import Weights, draw_float, write_tflite_float
from emberfleet.converters.tflite.model import Activation, OperatorKind
from emberfleet.core.arrays import Float32
from emberfleet.core.errors import ConversionError
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import (
    ClippedRelu,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    GlobalAveragePool,
    Input,
    Node,
    Relu,
    Softmax,
)
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.train.models import mobilenet, resnet
from tests.converters.tflite.interpreter import run_tflite
from tests.converters.tflite.random_graphs import random_graphs
from tests.core.networks import bypass_network, mobile_network, random_tensors


def relative_error(graph: Graph, reference: bool, weights: Weights = Weights.FLOAT32) -> float:
    """Largest difference from the numpy backend over the largest output."""
    tensors = random_tensors(graph)
    x: Float32 = np.random.default_rng(2).random((3, *graph.input.shape), dtype=np.float32)
    want = NumpyBackend().predictor(graph, tensors, 3).run(x)
    found = run_tflite(write_tflite_float(graph, tensors, weights=weights), x, reference)
    assert found.shape == want.shape
    return float(np.abs(found - want).max() / max(1e-3, np.abs(want).max()))


def one_convolution(*behind: Node) -> Graph:
    return Graph((Input("input", (), (4, 4, 2)), Conv2D("conv", ("input",), 3), *behind))


@pytest.mark.parametrize("reference", [True, False], ids=["reference kernels", "xnnpack"])
@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graph=random_graphs())
def test_random_graphs_agree_with_numpy(reference: bool, graph: Graph) -> None:
    assert relative_error(graph, reference) < 2e-5


@pytest.mark.parametrize("reference", [True, False], ids=["reference kernels", "xnnpack"])
@pytest.mark.parametrize(
    "graph",
    [mobile_network(), mobilenet(size=16, classes=10, width=0.25), resnet(8, width=0.5)],
    ids=["every operator", "mobilenet", "resnet"],
)
@pytest.mark.parametrize(("weights", "allowed"), [(Weights.FLOAT32, 2e-5), (Weights.FLOAT16, 5e-3)])
def test_weights_in_float16_cost_what_their_rounding_costs(
    graph: Graph, weights: Weights, allowed: float, reference: bool
) -> None:
    error = relative_error(graph, reference, weights)
    assert error < allowed
    assert weights is Weights.FLOAT32 or error > 2e-5


@pytest.mark.parametrize(
    ("reference", "allowed"), [(True, 2e-5), (False, 1e-2)], ids=["reference", "xnnpack"]
)
@pytest.mark.parametrize("depthwise", [False, True], ids=["convolution", "depthwise"])
def test_dynamic_range_is_int8_arithmetic_on_the_range_of_each_image(
    depthwise: bool, reference: bool, allowed: float
) -> None:
    channels = 120 if depthwise else 16
    node = (
        DepthwiseConv2D("conv", ("input",), 1, (3, 3))
        if depthwise
        else Conv2D("conv", ("input",), 24, (3, 3))
    )
    graph = Graph((Input("input", (), (3, 3, channels)), node, GlobalAveragePool("mean", ("conv",))))
    tensors = random_tensors(graph)
    x: Float32 = np.random.default_rng(2).normal(size=(3, 3, 3, channels)).astype(np.float32)
    x *= np.array([0.1, 1.0, 30.0], np.float32)[:, None, None, None]
    low, high = x.min(axis=(1, 2, 3), keepdims=True), x.max(axis=(1, 2, 3), keepdims=True)
    step = (high.astype(np.float64) - low) / 255
    zero = np.rint(-128 - low / step)
    rounded = (np.clip(np.rint(x / step) + zero, -128, 127) - zero) * step
    weight = tensors["conv/weight"].astype(np.float64)
    scales = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
    weight = np.rint(weight / scales) * scales
    sums = (
        np.einsum("nijc,cij->nc", rounded, weight[..., 0])
        if depthwise
        else np.einsum("nijc,oijc->no", rounded, weight)
    )
    want = sums + tensors["conv/bias"]
    data = write_tflite_float(graph, tensors, weights=Weights.DYNAMIC)
    found = run_tflite(data, x, reference)
    assert (np.abs(found - want).max(axis=1) < allowed * np.abs(want).max(axis=1)).all()


def test_small_convolutions_stay_in_float32_among_dynamic_ones() -> None:
    graph = mobilenet(size=16, classes=10)
    model = draw_float(graph, random_tensors(graph), weights=Weights.DYNAMIC)
    weights = [t.data for t in model.tensors if t.data is not None and t.name.endswith("/w")]
    assert max(w.size for w in weights if w.dtype == np.float32) < 1024
    assert min(w.size for w in weights if w.dtype == np.int8) >= 1024
    assert relative_error(graph, True, Weights.DYNAMIC) < 0.1


def test_files_shrink_with_their_weights() -> None:
    graph = resnet(8)
    tensors = random_tensors(graph)
    whole = len(write_tflite_float(graph, tensors))
    assert len(write_tflite_float(graph, tensors, weights=Weights.FLOAT16)) < 0.53 * whole
    assert len(write_tflite_float(graph, tensors, weights=Weights.DYNAMIC)) < 0.31 * whole


def test_a_weight_that_float16_cannot_hold_is_refused() -> None:
    graph = one_convolution(GlobalAveragePool("mean", ("conv",)))
    tensors = {**random_tensors(graph), "conv/weight": np.full((3, 1, 1, 2), 7e4, np.float32)}
    with pytest.raises(ConversionError, match="'conv': a weight is beyond what float16 holds"):
        write_tflite_float(graph, tensors, weights=Weights.FLOAT16)


@pytest.mark.parametrize(
    ("ceiling", "fused", "others"),
    [(6.0, Activation.RELU6, []), (1.5, Activation.RELU, [OperatorKind.MINIMUM])],
)
def test_a_ceiling_is_taken_in_where_an_operator_knows_it(
    ceiling: float, fused: Activation, others: list[OperatorKind]
) -> None:
    graph = one_convolution(ClippedRelu("clip", ("conv",), ceiling), GlobalAveragePool("mean", ("clip",)))
    conv, *rest = draw_float(graph, random_tensors(graph)).operators
    assert conv.options["FusedActivationFunction"] == fused
    assert [op.kind for op in rest][: len(rest) - 2] == others
    assert relative_error(graph, reference=True) < 1e-5


def test_a_final_softmax_is_kept() -> None:
    graph = Graph(
        (
            Input("input", (), (4, 4, 1)),
            Conv2D("head", ("input",), 3, (3, 3)),
            GlobalAveragePool("mean", ("head",)),
            Softmax("softmax", ("mean",)),
        )
    )
    assert relative_error(graph, reference=True) < 1e-5
    assert draw_float(graph, random_tensors(graph)).operators[-1].kind is OperatorKind.SOFTMAX


def test_a_relu_behind_a_concat_moves_into_its_convolutions() -> None:
    graph = Graph(
        (
            Input("input", (), (4, 4, 1)),
            Conv2D("left", ("input",), 2),
            Conv2D("right", ("input",), 3),
            Concat("concat", ("left", "right")),
            Relu("relu", ("concat",)),
            GlobalAveragePool("mean", ("relu",)),
        )
    )
    found = [op.kind for op in draw_float(graph, random_tensors(graph)).operators]
    assert OperatorKind.RELU not in found
    assert relative_error(graph, reference=True) < 1e-5


def test_a_model_needs_no_ranges() -> None:
    graph = bypass_network()
    tensors = {name: t for name, t in random_tensors(graph).items() if not name.endswith("/range")}
    assert write_tflite_float(graph, tensors)[4:8] == b"TFL3"
