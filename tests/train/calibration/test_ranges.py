"""Observed ranges are those of the activations, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest

from emberfleet.core.arrays import Float32
from emberfleet.core.errors import ConfigError, ShapeError
from emberfleet.core.graph import Graph
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.core.quantization import quantization_points
from emberfleet.engine.numpy_backend.activations import activations
from emberfleet.engine.numpy_backend.threads import Threads
from emberfleet.train.calibration.ranges import calibrate
from emberfleet.train.initialisation import initial_tensors

PIXELS = Preprocessing(8, 8, 1)


@pytest.fixture(scope="module")
def images() -> Float32:
    return np.random.default_rng(0).random((71, 8, 8, 1), np.float32)


def test_ranges_are_the_extremes_over_all_batches(tiny_graph: Graph, images: Float32) -> None:
    tensors = initial_tensors(tiny_graph, 0, PIXELS)
    found = calibrate(tiny_graph, tensors, images)
    values = activations(tiny_graph, tensors, images, ["relu2"])["relu2"]
    np.testing.assert_allclose(found["relu2/range"], [values.min(), values.max()], rtol=1e-5)
    assert set(found) == set(quantization_points(tiny_graph).values())


def test_a_bound_on_threads_reaches_the_activations(
    tiny_graph: Graph, images: Float32, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []

    class Watched(Threads):
        def __init__(self, count: int | None) -> None:
            asked.append(count)
            super().__init__(count)

    monkeypatch.setattr("emberfleet.engine.numpy_backend.activations.Threads", Watched)
    calibrate(tiny_graph, initial_tensors(tiny_graph, 0, PIXELS), images, threads=1)
    assert set(asked) == {1}


def test_the_inputs_range_is_left_as_preprocessing_states_it(tiny_graph: Graph, images: Float32) -> None:
    tensors = initial_tensors(tiny_graph, 0, PIXELS)
    assert calibrate(tiny_graph, tensors, images * 0.5)["input/range"].tolist() == [0.0, 1.0]


def test_a_percentile_leaves_a_stray_value_out(tiny_graph: Graph, images: Float32) -> None:
    tensors = initial_tensors(tiny_graph, 0, PIXELS)
    stray = images.copy()
    stray[0, 4, 4] = 1000.0
    low = calibrate(tiny_graph, tensors, stray, "percentile", 99.0)["relu2/range"][1]
    high = calibrate(tiny_graph, tensors, stray)["relu2/range"][1]
    assert low < high / 10


def test_no_images_or_an_odd_percentile_are_refused(tiny_graph: Graph, images: Float32) -> None:
    tensors = initial_tensors(tiny_graph, 0, PIXELS)
    with pytest.raises(ShapeError):
        calibrate(tiny_graph, tensors, images[:0])
    with pytest.raises(ConfigError):
        calibrate(tiny_graph, tensors, images, percentile=20.0)
