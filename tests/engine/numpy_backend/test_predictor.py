from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from emberfleet.core.arrays import Float32
from emberfleet.core.errors import ShapeError
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D, DepthwiseConv2D
from emberfleet.core.quantization import fake_quantize_weights, quantization_points
from emberfleet.engine.backend import TrainingSpec
from emberfleet.engine.numpy_backend.activations import activations
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.engine.optimizers import Sgd
from tests.core.networks import bypass_network, mobile_network, random_tensors
from tests.engine.networks import MOBILE_NETWORKS, NETWORKS, double_tensors, random_batch, single_tensors
from tests.engine.tolerance import assert_close

ALL = {**NETWORKS, **MOBILE_NETWORKS}


@pytest.mark.parametrize("graph", ALL.values(), ids=ALL)
def test_the_predictor_computes_what_the_plain_walk_over_the_graph_does(graph: Graph) -> None:
    x, _ = random_batch(graph, 7)
    tensors = single_tensors(graph)
    wide: dict[str, Any] = {name: value.astype(np.float64) for name, value in tensors.items()}
    x32 = x.astype(np.float32)
    expected = activations(graph, wide, cast("Float32", x32.astype(np.float64)), [graph.output.name])
    found = NumpyBackend().predictor(graph, tensors, batch=3).run(x32)
    assert found.dtype == np.float32
    assert_close(found, expected[graph.output.name], 2000)


def test_the_batch_size_does_not_change_the_result_and_no_images_give_no_rows() -> None:
    graph, tensors = bypass_network(), random_tensors(bypass_network())
    x = random_batch(graph, 9)[0].astype(np.float32)
    one = NumpyBackend().predictor(graph, tensors, batch=1).run(x)
    four = NumpyBackend().predictor(graph, tensors, batch=4)
    np.testing.assert_allclose(four.run(x), one, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(four.run(x), four.run(x))
    assert four.run(x[:0]).shape == (0, 5)


def test_training_without_batch_statistics_sees_what_the_predictor_computes() -> None:
    graph = NETWORKS["shared pools"]
    tensors: dict[str, Any] = double_tensors(graph)
    x, labels = random_batch(graph, 4)
    trainer = NumpyBackend(np.float64).trainer(graph, TrainingSpec(4, Sgd(), batch_statistics=False))
    trainer.load(tensors)
    logits = NumpyBackend(np.float64).predictor(graph, tensors, 4).run(cast("Float32", x))
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = trainer.step(cast("Float32", x), labels, 0.0)
    assert loss == pytest.approx(-logs[np.arange(4), labels].mean())


def test_fake_quantization_gives_outputs_that_are_steps_of_the_last_range() -> None:
    graph, tensors = bypass_network(), random_tensors(bypass_network())
    x = random_batch(graph, 4)[0].astype(np.float32)
    found = activations(graph, tensors, x, ["input"])["input"]
    np.testing.assert_array_equal(found, x)
    rounded = NumpyBackend().predictor(graph, tensors, 4, fake_quantize=True).run(x)
    plain = NumpyBackend().predictor(graph, tensors, 4).run(x)
    assert not np.array_equal(rounded, plain)
    del tensors[next(iter(quantization_points(graph).values()))]
    with pytest.raises(ShapeError, match="calibrate"):
        NumpyBackend().predictor(graph, tensors, 4, fake_quantize=True)


def test_fake_quantization_rounds_the_weights_of_every_convolution() -> None:
    graph, tensors = mobile_network(), random_tensors(mobile_network())
    x = random_batch(graph, 4)[0].astype(np.float32)
    expected = NumpyBackend().predictor(graph, tensors, 4, fake_quantize=True).run(x)
    for node in graph.nodes:
        if isinstance(node, Conv2D | DepthwiseConv2D):
            name = f"{node.name}/weight"
            rounded = dict(tensors)
            rounded[name] = fake_quantize_weights(tensors[name]).astype(np.float32)
            found = NumpyBackend().predictor(graph, rounded, 4, fake_quantize=True).run(x)
            np.testing.assert_array_equal(found, expected, err_msg=name)
            rounded[name] *= np.float32(1.3)
            assert not np.array_equal(
                NumpyBackend().predictor(graph, rounded, 4, fake_quantize=True).run(x), expected
            )


def test_images_that_do_not_fit_and_unknown_nodes_are_refused() -> None:
    graph, tensors = bypass_network(), random_tensors(bypass_network())
    predictor = NumpyBackend().predictor(graph, tensors, 4)
    with pytest.raises(ShapeError, match=r"expected \(n, 9, 9, 2\)"):
        predictor.run(np.zeros((1, 9, 8, 2), np.float32))
    with pytest.raises(ShapeError, match="'nowhere'"):
        activations(graph, tensors, np.zeros((1, 9, 9, 2), np.float32), ["nowhere"])
