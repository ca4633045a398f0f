from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emberfleet.core.errors import ShapeError
from emberfleet.core.graph import Graph
from emberfleet.core.integer import IntegerConv, IntegerNetwork
from emberfleet.core.lowering import quantize
from emberfleet.core.nodes import Conv2D, GlobalAveragePool, Input, Relu
from emberfleet.core.quantization import QuantParams
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.engine.opencl.backend import OpenCLBackend
from emberfleet.engine.opencl.device import OpenCLDevice
from emberfleet.engine.opencl.dot import Dot, device_forms, exact_form
from emberfleet.engine.opencl.integer import OpenCLIntegerPredictor
from tests.core.networks import bypass_network, random_tensors
from tests.engine.networks import MOBILE_NETWORKS, random_batch
from tests.engine.opencl.integer_networks import (
    average_pool_network,
    conv_network,
    depthwise_network,
    identity_network,
    max_pool_network,
    window_average_network,
)
from tests.engine.opencl.networks import WINDOWS, plain_network, wide_network

GRAPHS = {
    "fire with bypass": bypass_network(),
    "positions": bypass_network(positions=3, classes=4, side=7),
    "wide fires": wide_network(),
    "no batch norm": plain_network(),
    **MOBILE_NETWORKS,
    **WINDOWS,
}


def skip_without(dot: Dot, backend: OpenCLBackend) -> None:
    if dot not in device_forms(backend.device):
        pytest.skip(f"this device has no {dot.name.lower()} dot product")


@pytest.mark.parametrize(
    "dot", [Dot.PLAIN, Dot.FLOAT, Dot.VPDPBUSD, Dot.SDOT], ids=lambda dot: dot.name.lower()
)
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_every_bit_is_that_of_the_reference(backend: OpenCLBackend, graph: Graph, dot: Dot) -> None:
    skip_without(dot, backend)
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


INPUTS = [(5, 7, 3), (2, 1, 3), (6, 21, 1), (3, 5, 1), (4, 5, 2), (3, 3, 4), (2, 9, 17), (1, 1, 40)]


@pytest.mark.parametrize("shape", INPUTS, ids=str)
@pytest.mark.parametrize("dot", [Dot.PLAIN, Dot.VPDPBUSD], ids=["signed", "unsigned"])
def test_the_input_is_rounded_as_the_reference_does(
    backend: OpenCLBackend, shape: tuple[int, int, int], dot: Dot
) -> None:
    skip_without(dot, backend)
    params = QuantParams(0.037, 11)
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, (3, *shape)).astype(np.float32)
    x[0] = np.float32(0.037) * (rng.integers(-300, 300, shape) + 0.5)
    x[1].reshape(-1)[:2] = 1e30, -np.inf
    network = identity_network(shape, params)
    found = OpenCLIntegerPredictor(backend.device, network, 2, dot).run(x)
    np.testing.assert_array_equal(found, NumpyBackend().integer_predictor(network, 3).run(x))
    np.testing.assert_array_equal(found, params.dequantize(params.quantize(x)).reshape(3, -1))


DEPTHWISE = {
    "same": depthwise_network((9, 7), 17, (3, 3), pad=(1, 1, 1, 1)),
    "halved": depthwise_network((9, 8), 64, (3, 3), (2, 2), (0, 0, 1, 1), relu=True),
    "each channel twice": depthwise_network((5, 6), 9, (3, 3), pad=(1, 1, 1, 1), times=2),
    "each channel thrice": depthwise_network((5, 6), 16, (3, 2), (2, 1), (1, 0, 1, 2), times=3),
    "each twice, no halo": depthwise_network((5, 6), 7, (3, 3), times=2),
    "too long to unroll": depthwise_network((11, 12), 20, (9, 9), pad=(4, 4, 4, 4)),
    "too far to unroll": depthwise_network((12, 11), 5, (3, 2), (4, 5), (1, 0, 0, 1)),
    "too long for float": depthwise_network((24, 25), 6, (24, 23), pad=(1, 0, 0, 1)),
    "factors of half and more": depthwise_network((9, 7), 33, (3, 3), pad=(1, 1, 1, 1), shifts=(-12, 1)),
    "one pixel": depthwise_network((1, 1), 1, (1, 1)),
    "as large as the image": depthwise_network((7, 7), 100, (7, 7)),
}


@pytest.mark.parametrize("network", DEPTHWISE.values(), ids=DEPTHWISE)
@pytest.mark.parametrize("dot", [Dot.PLAIN, Dot.VPDPBUSD], ids=["signed", "unsigned"])
def test_depthwise_convolutions_give_the_codes_of_the_reference(
    backend: OpenCLBackend, network: IntegerNetwork, dot: Dot
) -> None:
    skip_without(dot, backend)
    q = np.random.default_rng(1).integers(-128, 128, (5, *network.input_tensor.shape)).astype(np.int8)
    q[1], q[2] = 127, -128
    predictor = OpenCLIntegerPredictor(backend.device, network, 3, dot)
    expected = NumpyBackend().integer_predictor(network, 5).run_integer(q)
    for _ in range(2):
        np.testing.assert_array_equal(predictor.run_integer(q), expected)


POOLS = {
    "ceil": max_pool_network((7, 8), 64, (3, 3), (2, 2), (0, 0, 1, 0)),
    "all around": max_pool_network((5, 4), 17, (3, 2), (1, 1), (1, 1, 1, 1)),
    "padding beyond the image": max_pool_network((2, 2), 100, (2, 2), (2, 2), (2, 2, 2, 2)),
    "one channel, stride three": max_pool_network((9, 7), 1, (2, 2), (3, 3), (0, 0, 0, 0)),
    "average": average_pool_network((13, 13), 100),
    "average of one": average_pool_network((1, 1), 5),
    "average of two": average_pool_network((1, 2), 70),
    "windows": window_average_network((7, 8), 64, (3, 3), (2, 2), (0, 0, 1, 0)),
    "windows all around": window_average_network((5, 4), 17, (3, 2), (1, 1), (1, 1, 1, 1)),
    "windows of one channel": window_average_network((9, 7), 1, (2, 2), (3, 3), (0, 0, 0, 0)),
}


@pytest.mark.parametrize("network", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("dot", [Dot.PLAIN, Dot.VPDPBUSD], ids=["signed", "unsigned"])
def test_pools_give_the_codes_of_the_reference(
    backend: OpenCLBackend, network: IntegerNetwork, dot: Dot
) -> None:
    skip_without(dot, backend)
    q = np.random.default_rng(1).integers(-128, 128, (4, *network.input_tensor.shape)).astype(np.int8)
    q[1], q[2] = 127, -128
    found = OpenCLIntegerPredictor(backend.device, network, 3, dot).run_integer(q)
    np.testing.assert_array_equal(found, NumpyBackend().integer_predictor(network, 4).run_integer(q))


def test_halos_keep_their_zero_points_from_run_to_run(backend: OpenCLBackend) -> None:
    graph = wide_network()
    network = quantize(graph, random_tensors(graph))
    predictor = backend.integer_predictor(network, 2)
    q = np.random.default_rng(1).integers(-128, 128, (2, *graph.input.shape)).astype(np.int8)
    first = predictor.run_integer(q)
    for _ in range(2):
        predictor.run_integer(-1 - q)
        predictor.run(np.ones((1, *graph.input.shape), np.float32))
    np.testing.assert_array_equal(predictor.run_integer(q), first)


def test_expands_of_a_fire_are_one_launch(backend: OpenCLBackend) -> None:
    graph = wide_network()
    network = quantize(graph, random_tensors(graph))
    convs = sum(isinstance(op, IntegerConv) for op in network.ops)
    predictor = OpenCLIntegerPredictor(backend.device, network, 1)
    assert predictor.program.kernels.count("conv2d_forward_s8") == convs - 2
    assert "copy_s8" not in predictor.program.kernels


def test_threads_that_share_the_work_give_the_codes_of_the_reference(
    backend: OpenCLBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short runs stay on the calling thread: here none counts as short."""
    monkeypatch.setattr(OpenCLDevice, "suited", lambda device, products, short=0: device)
    network = conv_network((23, 19), (9, 70), (3, 3), pad=(1, 1, 1, 1))
    predictor = OpenCLIntegerPredictor(backend.device, network, 2)
    assert predictor.program.device is backend.device
    q = np.random.default_rng(1).integers(-128, 128, (3, 23, 19, 9)).astype(np.int8)
    expected = NumpyBackend().integer_predictor(network, 3).run_integer(q)
    for _ in range(20):
        np.testing.assert_array_equal(predictor.run_integer(q), expected)


def test_images_of_another_shape_are_refused(backend: OpenCLBackend) -> None:
    graph = bypass_network()
    predictor = backend.integer_predictor(quantize(graph, random_tensors(graph)), 2)
    with pytest.raises(ShapeError, match="expected"):
        predictor.run(np.zeros((1, 3, 3, 2), np.float32))


def test_codes_of_another_shape_or_type_are_refused(backend: OpenCLBackend) -> None:
    graph = bypass_network()
    predictor = backend.integer_predictor(quantize(graph, random_tensors(graph)), 2)
    with pytest.raises(ShapeError, match="expected"):
        predictor.run_integer(np.zeros((1, 3, 3, 2), np.int8))
    with pytest.raises(ShapeError, match="expected"):
        predictor.run_integer(np.zeros((1, 9, 9, 2), np.uint8))


def test_predicting_in_int8_loads_neither_training_nor_float() -> None:
    """Importing them would take a tenth of the time to the first prediction of a process."""
    root = Path(__file__).resolve().parents[3]
    paths = [str(root / part) for part in ("edge", "converters")]
    needless = tuple(
        f"emberfleet.engine.opencl.{name}" for name in ("trainer", "predictor", "forward", "backward")
    )
    code = (
        f"import sys; sys.path[:0] = {paths}; import emberfleet.converters.bundle; "
        "import emberfleet.engine.opencl.backend, emberfleet.engine.opencl.integer; "
        f"print([m for m in sys.modules if m.startswith(('emberfleet.train', *{needless}))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
