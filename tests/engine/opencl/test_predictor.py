from __future__ import annotations

import numpy as np
import pytest

from emberfleet.core.errors import QuantError, ShapeError
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D, Input, Reshape
from emberfleet.core.quantization import QuantParams, quantization_points
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.engine.opencl.backend import OpenCLBackend
from emberfleet.engine.opencl.predictor import OpenCLPredictor
from tests.core.networks import random_tensors
from tests.engine.networks import linear_network, random_batch, residual_network, single_tensors
from tests.engine.opencl.networks import GRAPHS, WINDOWS, plain_network, wide_network
from tests.engine.tolerance import assert_close

SUMS = 4000


@pytest.mark.parametrize("graph", [*GRAPHS.values(), *WINDOWS.values()], ids=[*GRAPHS, *WINDOWS])
def test_predictions_are_those_of_the_reference(backend: OpenCLBackend, graph: Graph) -> None:
    tensors = single_tensors(graph)
    x = random_batch(graph, 7)[0].astype(np.float32)
    found = backend.predictor(graph, tensors, 3).run(x)
    doubles = {name: value.astype(np.float64) for name, value in tensors.items()}
    expected = NumpyBackend(np.float64).predictor(graph, doubles, 7).run(x)  # type: ignore[arg-type]
    assert found.dtype == np.float32
    assert_close(found, expected, SUMS)


@pytest.mark.parametrize(
    "graph",
    [wide_network(), plain_network(), residual_network()],
    ids=["wide fires", "no batch norm", "residual"],
)
def test_predictions_rounded_to_8_bits_are_within_a_step(backend: OpenCLBackend, graph: Graph) -> None:
    tensors = random_tensors(graph)
    x = random_batch(graph, 5)[0].astype(np.float32)
    found = backend.predictor(graph, tensors, 4, fake_quantize=True).run(x)
    expected = NumpyBackend().predictor(graph, tensors, 4, fake_quantize=True).run(x)
    step = 8.0 / 255.0
    # Values on the edge between two codes may fall to either side and move a few results by a step.
    assert np.abs(found - expected).max() <= 1.01 * step
    assert np.mean(np.abs(found - expected) < 1e-5) > 0.9


def test_rounding_has_the_bits_of_the_rule(backend: OpenCLBackend) -> None:
    graph = Graph(
        (
            Input("image", (), (1, 1, 4)),
            Conv2D("same", ("image",), 4, bias=False),
            Reshape("flat", ("same",), (4,)),
        )
    )
    tensors = {
        "same/weight": np.eye(4, dtype=np.float32).reshape(4, 1, 1, 4),
        "image/range": np.array([-1.7, 2.3], np.float32),
        quantization_points(graph)["same"]: np.array([-0.9, 1.1], np.float32),
    }
    steps = QuantParams.from_range(-1.7, 2.3).scale * (np.arange(-300, 300, dtype=np.float32) + 0.5)
    values = np.random.default_rng(0).normal(size=3400).astype(np.float32)
    x = np.concatenate([steps, values]).reshape(-1, 1, 1, 4)
    found = backend.predictor(graph, tensors, 64, fake_quantize=True).run(x)
    expected = NumpyBackend().predictor(graph, tensors, 64, fake_quantize=True).run(x)
    np.testing.assert_array_equal(found, expected)
    assert 100 < len(np.unique(found)) <= 256


def test_no_images_give_no_results(backend: OpenCLBackend) -> None:
    graph = linear_network()
    found = backend.predictor(graph, single_tensors(graph), 2).run(np.zeros((0, 3, 5, 1), np.float32))
    assert found.shape == (0, 3)


def test_a_last_batch_does_not_see_the_one_before(backend: OpenCLBackend) -> None:
    graph = wide_network()
    predictor = backend.predictor(graph, single_tensors(graph), 2)
    x = random_batch(graph, 3)[0].astype(np.float32)
    np.testing.assert_array_equal(predictor.run(x)[2], predictor.run(x[2:])[0])


def test_batch_norm_relu_and_concat_cost_no_launch(backend: OpenCLBackend) -> None:
    predictor = backend.predictor(wide_network(), single_tensors(wide_network()), 2)
    assert isinstance(predictor, OpenCLPredictor)
    kinds = set(predictor.program.kernels)
    assert kinds <= {
        *("conv2d_forward_f32", "add_f32", "max_pool_forward_f32"),
        *("global_average_pool_forward_f32", "clear_halo_f32"),
    }


def test_images_and_ranges_that_do_not_fit_are_refused(backend: OpenCLBackend) -> None:
    graph = linear_network()
    tensors = single_tensors(graph)
    with pytest.raises(ShapeError, match="images are"):
        backend.predictor(graph, tensors, 2).run(np.zeros((1, 5, 3, 1), np.float32))
    with pytest.raises(QuantError, match="range 'image/range' is missing"):
        backend.predictor(graph, tensors, 2, fake_quantize=True)
