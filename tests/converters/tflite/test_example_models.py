"""The int8 .tflite of the models that the examples make, on the pictures they are made for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emberfleet.converters.tflite.int8_writer import write_tflite_int8
from emberfleet.core.arrays import UInt8
from emberfleet.core.lowering import quantize
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.train.calibration import calibrate
from emberfleet.train.data.names import load
from emberfleet.train.loop import TrainConfig
from emberfleet.train.trained import TrainedModel
from emberfleet.train.training import choice_for, train_model
from tests.converters.tflite.interpreter import run_tflite
from tests.digits import DIGITS
from tests.examples.programs import example_module


def steps_apart(model: TrainedModel, images: UInt8) -> tuple[int, int]:
    """Largest difference of the logits from our int8 reference: with the reference kernels, with XNNPACK."""
    network = quantize(model.graph, model.tensors)
    q = network.input_tensor.params.quantize(model.preprocessing.apply(images))
    want = NumpyBackend().integer_predictor(network, len(q)).run_integer(q).astype(int)
    assert want.std() > 4
    data = write_tflite_int8(network)
    found = [run_tflite(data, q, reference).astype(int) for reference in (True, False)]
    return int(np.abs(found[0] - want).max()), int(np.abs(found[1] - want).max())


@pytest.mark.parametrize(
    ("name", "width", "images", "allowed"),
    [
        ("small", 1.0, 192, 1),
        ("resnet_8", 0.5, 192, 1),
        ("linear", 1.0, 192, 0),
        ("two_layer", 1.0, 192, 1),
        ("mobilenet", 0.25, 32, 4),
    ],
)
def test_a_trained_model_gives_the_same_bits_on_handwriting(
    name: str, width: float, images: int, allowed: int
) -> None:
    """XNNPACK rounds once where TensorFlow Lite's reference rounds twice; over 28 layers that adds up."""
    data = load("handwriting", DIGITS, "train")
    few = data.subset(np.arange(len(data)) < images)
    config = TrainConfig(epochs=1, quantize_epochs=1, batch=32, calibration_images=images)
    model = train_model(name, choice_for(few, width=width), few, None, config, NumpyBackend())
    reference, xnnpack = steps_apart(model, load("handwriting", DIGITS, "test").images[:40])
    assert reference == 0
    assert xnnpack <= allowed


def test_the_published_squeezenet_gives_the_same_bits_on_photos(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = shared_data / "squeezenet", shared_data / "imagenet-samples"
    if not all(folder.is_dir() for folder in folders):
        pytest.skip(f"no published weights and photos at {shared_data}")
    published = example_module(monkeypatch, "imagenet_squeezenet", "published")
    photos = example_module(monkeypatch, "imagenet_squeezenet", "photos")
    model: TrainedModel = published.read_published(folders[0])
    images, _ = photos.read_labelled(folders[1], "class_index", published.SIDE, 6)
    ranges = calibrate(model.graph, model.tensors, model.preprocessing.apply(images[2:]))
    model = replace(model, tensors={**model.tensors, **ranges})
    reference, xnnpack = steps_apart(model, images[:2])
    assert reference == 0
    assert xnnpack <= 1
