"""Tiny images that a small network can tell apart, and settings that train in a second."""

from __future__ import annotations

import numpy as np
import pytest

from emberfleet.core.graph import Graph
from emberfleet.core.nodes import BatchNorm, Concat, Conv2D, Dropout, GlobalAveragePool, Input, MaxPool, Relu
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.engine.backend import Backend
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.train.data.dataset import Dataset

CLASSES = ("across", "down", "dots")
PIXELS = Preprocessing(8, 8, 1)


def patterns(count: int, seed: int) -> Dataset:
    """Stripes across, stripes down and dots, in noise: 8 x 8 grey images."""
    random = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    phase = random.integers(0, 2, count)
    row, column = np.mgrid[:8, :8]
    bright = np.stack(
        [(row + p) % 2 * (k != 1) + (column + p) % 2 * (k == 1) for k, p in zip(labels, phase, strict=True)]
    )
    dots = (labels == 2)[:, None, None] & (column % 2 == 0)
    images = np.where(bright & ~dots, 200, 40) + random.integers(-40, 40, (count, 8, 8))
    return Dataset(np.clip(images, 0, 255).astype(np.uint8)[..., None], labels, CLASSES)


@pytest.fixture(scope="session")
def train_images() -> Dataset:
    return patterns(96, 1)


@pytest.fixture(scope="session")
def other_images() -> Dataset:
    return patterns(48, 2)


@pytest.fixture(scope="session")
def numpy_backend() -> Backend:
    return NumpyBackend(threads=1)


@pytest.fixture(scope="session")
def tiny_graph() -> Graph:
    """A fire module with batch norm and dropout on 8 x 8 pixels."""
    pad = (1, 1, 1, 1)
    return Graph(
        (
            Input("input", (), (8, 8, 1)),
            Conv2D("conv1", ("input",), 4, (3, 3), (1, 1), pad, False),
            BatchNorm("norm1", ("conv1",)),
            Relu("relu1", ("norm1",)),
            MaxPool("pool1", ("relu1",), (2, 2), (2, 2)),
            Conv2D("left", ("pool1",), 4, bias=False),
            Conv2D("right", ("pool1",), 4, (3, 3), (1, 1), pad, False),
            Concat("join", ("left", "right")),
            BatchNorm("norm2", ("join",)),
            Relu("relu2", ("norm2",)),
            Dropout("dropout", ("relu2",), 0.1),
            Conv2D("head", ("dropout",), 3),
            GlobalAveragePool("logits", ("head",)),
        )
    )
