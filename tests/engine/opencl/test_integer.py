from __future__ import annotations

import numpy as np
import pytest

from emberfleet.core.errors import ShapeError
from emberfleet.core.graph import Conv2D, GlobalAveragePool, Graph, Input, Relu
from emberfleet.core.integer import IntegerConv, quantize
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.engine.opencl.backend import OpenCLBackend
from emberfleet.engine.opencl.dot import Dot, device_forms, exact_form
from emberfleet.engine.opencl.integer import OpenCLIntegerPredictor
from tests.core.networks import bypass_network, random_tensors
from tests.engine.networks import random_batch
from tests.engine.opencl.networks import WINDOWS, plain_network, wide_network

GRAPHS = {
    "fire with bypass": bypass_network(),
    "positions": bypass_network(positions=3, classes=4, side=7),
    "wide fires": wide_network(),
    "no batch norm": plain_network(),
    **WINDOWS,
}


@pytest.mark.parametrize("dot", list(Dot), ids=lambda dot: dot.name.lower())
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_every_bit_is_that_of_the_reference(backend: OpenCLBackend, graph: Graph, dot: Dot) -> None:
    if dot not in device_forms(backend.device):
        pytest.skip(f"this device has no {dot.name.lower()}")
    network = quantize(graph, random_tensors(graph))
    q = np.random.default_rng(1).integers(-128, 128, (5, *graph.input.shape)).astype(np.int8)
    found = OpenCLIntegerPredictor(backend.device, network, 3, dot).run_integer(q)
    expected = NumpyBackend().integer_predictor(network, 5).run_integer(q)
    np.testing.assert_array_equal(found, expected)


def test_float_in_float_out_is_that_of_the_reference(backend: OpenCLBackend) -> None:
    graph = wide_network()
    network = quantize(graph, random_tensors(graph))
    x = random_batch(graph, 4)[0].astype(np.float32)
    found = backend.integer_predictor(network, 3).run(x)
    np.testing.assert_array_equal(found, NumpyBackend().integer_predictor(network, 4).run(x))
    assert len(np.unique(found)) > 4


def test_sums_too_long_for_float_are_made_of_integers(backend: OpenCLBackend) -> None:
    graph = Graph(
        (
            Input("input", (), (3, 3, 200)),
            Conv2D("long", ("input",), 5, (3, 3)),
            Relu("relu", ("long",)),
            GlobalAveragePool("average", ("relu",)),
        )
    )
    network = quantize(graph, random_tensors(graph))
    (conv,) = [op for op in network.ops if isinstance(op, IntegerConv)]
    assert exact_form(Dot.FLOAT, conv.weights[0].size) is Dot.PLAIN
    q = np.full((2, 3, 3, 200), 127, np.int8)
    q[1] = -128
    found = OpenCLIntegerPredictor(backend.device, network, 2, Dot.FLOAT).run_integer(q)
    np.testing.assert_array_equal(found, NumpyBackend().integer_predictor(network, 2).run_integer(q))


def test_codes_of_another_shape_or_type_are_refused(backend: OpenCLBackend) -> None:
    graph = bypass_network()
    predictor = backend.integer_predictor(quantize(graph, random_tensors(graph)), 2)
    with pytest.raises(ShapeError, match="expected"):
        predictor.run_integer(np.zeros((1, 3, 3, 2), np.int8))
    with pytest.raises(ShapeError, match="expected"):
        predictor.run_integer(np.zeros((1, 9, 9, 2), np.uint8))
