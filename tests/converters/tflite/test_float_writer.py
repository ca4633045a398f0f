from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from emberfleet.converters.tflite.float_writer import draw_float, write_tflite_float
from emberfleet.converters.tflite.model import OperatorKind
from emberfleet.core.arrays import Float32
from emberfleet.core.graph import Concat, Conv2D, GlobalAveragePool, Graph, Input, Relu, Softmax
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from tests.converters.tflite.interpreter import run_tflite
from tests.converters.tflite.random_graphs import random_graphs
from tests.core.networks import bypass_network, random_tensors


def relative_error(graph: Graph, reference: bool) -> float:
    """Largest difference from the numpy backend over the largest output."""
    tensors = random_tensors(graph)
    x: Float32 = np.random.default_rng(2).random((3, *graph.input.shape), dtype=np.float32)
    want = NumpyBackend().predictor(graph, tensors, 3).run(x)
    found = run_tflite(write_tflite_float(graph, tensors), x, reference)
    assert found.shape == want.shape
    return float(np.abs(found - want).max() / max(1e-3, np.abs(want).max()))


@pytest.mark.parametrize("reference", [True, False], ids=["reference kernels", "xnnpack"])
@settings(max_examples=15, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graph=random_graphs())
def test_random_graphs_agree_with_numpy(reference: bool, graph: Graph) -> None:
    assert relative_error(graph, reference) < 2e-5


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
