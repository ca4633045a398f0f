"""Depthwise convolutions of every window, clipped ReLUs at their edges, average pools: as the reference."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from emberfleet.core.errors import ShapeError
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import AveragePool, ClippedRelu, Conv2D, DepthwiseConv2D, GlobalAveragePool, Input
from emberfleet.engine.backend import TrainingSpec
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.engine.opencl import depthwise
from emberfleet.engine.opencl.backend import OpenCLBackend
from emberfleet.engine.opencl.conv2d import Epilogue, Weight, Window
from emberfleet.engine.opencl.depthwise import DepthwiseTile, DepthwiseWork
from emberfleet.engine.opencl.device import OpenCLDevice
from emberfleet.engine.opencl.profiling import profile
from emberfleet.engine.opencl.program import Program
from emberfleet.engine.optimizers import Sgd
from tests.engine.networks import MOBILE_NETWORKS, random_batch, single_tensors
from tests.engine.opencl.networks import depthwise_network
from tests.engine.tolerance import tolerance

BATCH = 3
SUMS = 1000
"""Lengths of all sums on the longest way through one of the networks, added up."""


def assert_gradients_near(backend: OpenCLBackend, graph: Graph) -> None:
    """Every gradient within the tolerance of the largest of its kind: of weights, of biases and so on."""
    spec = TrainingSpec(BATCH, Sgd())
    tensors = single_tensors(graph)
    images, labels = random_batch(graph, BATCH)
    x = images.astype(np.float32)
    ours, theirs = backend.trainer(graph, spec), NumpyBackend(np.float64).trainer(graph, spec)
    ours.load(tensors)
    theirs.load({name: value.astype(np.float64) for name, value in tensors.items()})
    found, expected = ours.gradients(x, labels), theirs.gradients(x, labels)
    scale = max(float(np.abs(value).max()) for value in expected.values())
    for name, value in expected.items():
        worst = float(np.abs(found[name].astype(np.float64) - value).max()) / scale
        assert worst <= tolerance(SUMS, np.float32), f"{name}: off by {worst:.2e}"
        assert np.abs(value).max() > 0.0, f"{name}: the network does not see it"


def test_windows_of_every_shape_have_the_gradients_of_the_reference(backend: OpenCLBackend) -> None:
    assert_gradients_near(backend, depthwise_network(30))


def test_windows_of_every_shape_predict_like_the_reference(backend: OpenCLBackend) -> None:
    graph = depthwise_network(30)
    tensors = single_tensors(graph)
    x = random_batch(graph, 5)[0].astype(np.float32)
    found = backend.predictor(graph, tensors, 2).run(x)
    doubles = {name: value.astype(np.float64) for name, value in tensors.items()}
    expected = NumpyBackend(np.float64).predictor(graph, doubles, 5).run(x)  # type: ignore[arg-type]
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=tolerance(SUMS, np.float32) * np.abs(expected).max()
    )


def clipped_graph(ceiling: float) -> Graph:
    """A clipped ReLU by itself, one in a convolution, one in a depthwise convolution."""
    return Graph(
        (
            Input("input", (), (6, 5, 3)),
            ClippedRelu("alone", ("input",), ceiling),
            Conv2D("conv", ("alone",), 6),
            ClippedRelu("conv/relu", ("conv",), ceiling),
            DepthwiseConv2D("depthwise", ("conv/relu",), padding=(1, 1, 1, 1)),
            ClippedRelu("depthwise/relu", ("depthwise",), ceiling),
            Conv2D("last", ("depthwise/relu",), 4),
            GlobalAveragePool("average", ("last",)),
        )
    )


def test_at_its_edges_a_clipped_relu_passes_no_gradient(backend: OpenCLBackend) -> None:
    graph = Graph(
        (
            Input("input", (), (1, 1, 4)),
            Conv2D("same", ("input",), 4),
            ClippedRelu("clipped", ("same",), 6.0),
            Conv2D("last", ("clipped",), 2),
            GlobalAveragePool("average", ("last",)),
        )
    )
    tensors = {name: np.zeros(shape, np.float32) for name, shape in graph.parameters.items()}
    tensors["same/weight"] = np.eye(4, dtype=np.float32).reshape(4, 1, 1, 4)
    tensors["last/weight"][0] = 1.0
    trainer = backend.trainer(graph, TrainingSpec(1, Sgd()))
    trainer.load(tensors)
    x = np.array([0.0, 6.0, np.nextafter(np.float32(6.0), np.float32(0.0)), 1e-30], np.float32)
    found = trainer.gradients(x.reshape(1, 1, 1, 4), np.array([1]))["same/bias"]
    assert (found != 0.0).tolist() == [False, False, True, True]


@pytest.mark.parametrize("ceiling", [0.3, 6.0])
def test_clipped_relus_cut_where_the_reference_does(backend: OpenCLBackend, ceiling: float) -> None:
    graph = clipped_graph(ceiling)
    assert_gradients_near(backend, graph)
    x = random_batch(graph, 3)[0].astype(np.float32)
    tensors = single_tensors(graph)
    found = backend.predictor(graph, tensors, 3).run(x)
    np.testing.assert_allclose(
        found, NumpyBackend().predictor(graph, tensors, 3).run(x), rtol=0, atol=tolerance(SUMS, np.float32)
    )


def test_clipped_relus_cost_no_launch_behind_convolutions(backend: OpenCLBackend) -> None:
    graph = clipped_graph(6.0)
    trainer = backend.trainer(graph, TrainingSpec(BATCH, Sgd()))
    assert trainer.program.kernels.count("relu_forward_f32") == 1


@pytest.mark.parametrize(
    "pool",
    [
        AveragePool("pool", ("conv",), (2, 2), (2, 2)),
        AveragePool("pool", ("conv",), (3, 3), (1, 1), (1, 1, 1, 1)),
        AveragePool("pool", ("conv",), (3, 2), (2, 3), (2, 0, 1, 1)),
        AveragePool("pool", ("conv",), (1, 1), (3, 2)),
    ],
    ids=lambda pool: f"{pool.kernel} by {pool.stride}",
)
def test_average_pools_count_the_pixels_inside(backend: OpenCLBackend, pool: AveragePool) -> None:
    graph = Graph(
        (
            Input("input", (), (7, 8, 2)),
            Conv2D("conv", ("input",), 19),
            pool,
            Conv2D("last", ("pool",), 3),
            GlobalAveragePool("average", ("last",)),
        )
    )
    assert_gradients_near(backend, graph)
    ones = {name: np.zeros(shape, np.float32) for name, shape in graph.parameters.items()}
    ones |= {"conv/bias": np.ones(19, np.float32), "last/weight": np.full((3, 1, 1, 19), 1 / 19, np.float32)}
    found = backend.predictor(graph, ones, 1).run(np.zeros((1, 7, 8, 2), np.float32))
    np.testing.assert_allclose(found, 1.0, rtol=1e-6)


def recorded(
    device: OpenCLDevice, window: Window, batch: int = 2, side: int = 14, channels: int = 20
) -> Program:
    """A program of one forward depthwise convolution, not compiled."""
    program = Program(device, device.limits.vector_width, batch)
    pad = (window.up, window.left, window.up, window.left)
    x = program.images("x", (side, side, channels), pad)
    rows = (side + 2 * window.up - window.kernel[0]) // window.stride[0] + 1
    columns = (side + 2 * window.left - window.kernel[1]) // window.stride[1] + 1
    y = program.images("y", (rows, columns, channels))
    depthwise.forward(program, x, Weight("params", 0, 1, y.padded_channels), y, window, Epilogue())
    return program


def test_work_is_counted_without_padding(backend: OpenCLBackend) -> None:
    (call,) = recorded(backend.device, Window((3, 3), (1, 1), 1, 1)).calls
    assert isinstance(call.work, DepthwiseWork)
    assert call.work.flops == 2 * 9 * 2 * 14 * 14 * 20
    assert call.work.values_moved - 2 * 2 * 14 * 14 * 20 == 9 * call.work.y.padded_channels


def test_the_profile_says_what_a_depthwise_convolution_is(backend: OpenCLBackend) -> None:
    program = recorded(backend.device, Window((3, 3), (1, 1), 1, 1))
    program.compile({"params": 4096})
    program.run()
    (time,) = [time for time in profile(program, rounds=1) if time.kernel.startswith("depthwise")]
    assert time.shape == "3x3, 1 -> 20, 2 x 14x14"
    assert time.flops == 2 * 9 * 2 * 14 * 14 * 20
    assert time.seconds > 0.0


def test_windows_that_are_long_or_far_apart_are_not_unrolled(backend: OpenCLBackend) -> None:
    near, far = (recorded(backend.device, Window((3, 3), (s, s), 1, 1)).calls[0] for s in (2, 4))
    long = recorded(backend.device, Window((9, 9), (1, 1), 4, 4)).calls[0]
    assert isinstance(near.options, DepthwiseTile)
    assert (near.kernel, far.kernel) == ("depthwise_forward_f32", "depthwise_forward_any_f32")
    assert long.kernel == far.kernel


def test_every_channel_and_row_belongs_to_one_group(backend: OpenCLBackend) -> None:
    for channels in (1, 20, 64, 1024):
        for side, batch in ((1, 1), (7, 1), (14, 8)):
            program = recorded(backend.device, Window((3, 3), (1, 1), 1, 1), batch, side, channels)
            (call,) = program.calls
            each, blocks, everything, panel = cast("tuple[int, int, int, int]", call.arguments[7])
            assert isinstance(call.options, DepthwiseTile)
            assert isinstance(call.work, DepthwiseWork)
            assert blocks == math.ceil(side / call.options.mry)
            assert everything == blocks * batch
            assert call.groups[0] == math.ceil(everything / each)
            assert call.groups[1] * panel == call.work.y.padded_channels


def test_a_window_beyond_the_stored_image_is_refused(backend: OpenCLBackend) -> None:
    program = Program(backend.device, backend.device.limits.vector_width, 1)
    x, y = program.images("x", (5, 5, 8)), program.images("y", (5, 5, 8))
    with pytest.raises(ShapeError, match="window"):
        depthwise.forward(program, x, Weight("params", 0, 1, 16), y, Window((3, 3), (1, 1), 1, 1), Epilogue())


def test_processors_with_few_registers_compute_the_same(device: OpenCLDevice) -> None:
    cpu = device.in_family("cpu")
    few = replace(cpu, limits=replace(cpu.limits, vector_registers=16, vector_width=8), cpu_width=8)
    assert_gradients_near(OpenCLBackend(device=few), MOBILE_NETWORKS["shared depthwise"])
