"""A task small enough to learn in a second: which of five rows of a noisy image is bright."""

from __future__ import annotations

from functools import cache

import numpy as np

from emberfleet.core.preprocessing import Preprocessing
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.runtime.retraining import RetrainPlan, learn, with_tensors
from emberfleet.train.calibration import calibrate
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.initialisation import initial_tensors
from emberfleet.train.trained import TrainedModel
from tests.core.networks import bypass_network

CLASSES = ("first", "second", "third", "fourth", "fifth")
SIDE = 9


def stripes(count: int, seed: int = 0, contrast: int = 120, positions: int = 1) -> Dataset:
    """Images with one bright row; with positions, the image's halves have a row each."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(CLASSES), (count, positions))
    images = generator.integers(0, 60, (count, SIDE, SIDE, 1))
    width = SIDE // positions
    for image, row in zip(images, labels, strict=True):
        for place, label in enumerate(row):
            image[2 * label : 2 * label + 1, place * width : (place + 1) * width] += contrast
    shaped = labels[:, 0] if positions == 1 else labels
    return Dataset(images.astype(np.uint8), shaped.astype(np.int64), CLASSES)


@cache
def untrained(positions: int = 1) -> TrainedModel:
    """First weights, ranges observed."""
    graph = bypass_network(positions=positions, classes=len(CLASSES), side=SIDE, channels=1)
    preprocessing = Preprocessing(SIDE, SIDE, 1)
    tensors = initial_tensors(graph, 0, preprocessing)
    ranges = calibrate(graph, tensors, preprocessing.apply(stripes(64, 9, positions=positions).images))
    return TrainedModel(graph, {**tensors, **ranges}, preprocessing, CLASSES)


@cache
def trained(positions: int = 1) -> TrainedModel:
    """Trained on bright stripes, so that faint ones leave something to learn."""
    plan = RetrainPlan("full", epochs=20, batch=16, rate=0.03)
    learnt = learn(untrained(positions), stripes(256, 1, positions=positions), plan, NumpyBackend())
    return with_tensors(untrained(positions), learnt.tensors)
