"""From an imported network to a model: pixels and labels."""

from __future__ import annotations

import numpy as np
import pytest

from emberfleet.converters.onnx.importer import ImportedNetwork, import_onnx
from emberfleet.converters.onnx.metadata import KEY, describe, read_description
from emberfleet.converters.onnx.model import CONVENTIONS, Pixels, model_of_network
from emberfleet.core.arrays import Float32
from emberfleet.core.errors import ConfigError, ConversionError, FormatError, ShapeError
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.train.trained import TrainedModel
from tests.converters.onnx.networks import model, node, run, weights

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3)).astype(np.uint8)


def network_file(first: str = "conv", channels: int = 3) -> bytes:
    """Two classes of an image of 6 x 5, its pixels scaled and shifted by the file itself."""
    constants = {
        "s": np.array([0.5, 2, 3], np.float32)[:channels].reshape(channels, 1, 1),
        "t": np.array([-1, 0.5, 0.25], np.float32)[:channels].reshape(channels, 1, 1),
        "w": weights(2, channels, 3, 3),
    }
    nodes = [node("Mul", "x s", "a"), node("Add", "a t", "b")]
    nodes += [node("MaxPool", "b", "p", kernel_shape=[1, 1])] if first == "pool" else []
    nodes += [node("Conv", f"{'p' if first == 'pool' else 'b'} w", "c"), node("GlobalAveragePool", "c", "m")]
    return model([*nodes, node("Flatten", "m", "y")], ("N", channels, 6, 5), constants)


def scores(trained: TrainedModel, pixels: np.ndarray = PIXELS) -> Float32:
    return (
        NumpyBackend().predictor(trained.graph, trained.tensors, 4).run(trained.preprocessing.apply(pixels))
    )


EXPECTED = {
    "imagenet": lambda p: (p / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225),
    "caffe": lambda p: p[..., ::-1] - (103.939, 116.779, 123.68),
    "tf": lambda p: p / 127.5 - 1,
    "unit": lambda p: p / 255,
    "none": lambda p: p,
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_pixels_reach_the_network_as_its_convention_has_them(name: str) -> None:
    data = network_file()
    given = EXPECTED[name](PIXELS.astype(np.float64)).astype(np.float32)
    expected = run(data, np.ascontiguousarray(given.transpose(0, 3, 1, 2)))
    found = scores(model_of_network(import_onnx(data), CONVENTIONS[name]))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_one_channel_takes_one_mean() -> None:
    trained = model_of_network(import_onnx(network_file(channels=1)), Pixels((0.5,), (0.25,)))
    assert trained.preprocessing.shape == (6, 5, 1)
    with pytest.raises(ConfigError, match="3 values of mean for an image of 1 channels"):
        model_of_network(import_onnx(network_file(channels=1)), CONVENTIONS["imagenet"])


def test_an_image_of_other_than_one_or_three_channels_is_refused() -> None:
    data = model(
        [node("Conv", "x w", "c"), node("GlobalAveragePool", "c", "m"), node("Flatten", "m", "y")],
        ("N", 4, 6, 5), {"w": weights(2, 4, 3, 3)},
    )  # fmt: skip
    with pytest.raises(ShapeError, match="1 or 3 channels"):
        model_of_network(import_onnx(data), CONVENTIONS["unit"])


def test_channels_cannot_be_turned_round_behind_anything_but_a_convolution() -> None:
    with pytest.raises(ConversionError, match=r"max_pool.*only where a conv2d does"):
        model_of_network(import_onnx(network_file("pool")), CONVENTIONS["caffe"])


def test_what_the_network_reads_has_to_be_said() -> None:
    with pytest.raises(
        ConfigError, match="--preprocess imagenet, caffe, tf, unit, none; or --mean and --std"
    ):
        model_of_network(import_onnx(network_file()))


def test_labels_are_numbers_until_they_are_given_and_doubles_are_numbered() -> None:
    network = import_onnx(network_file())
    unit = CONVENTIONS["unit"]
    assert model_of_network(network, unit).classes == ("0", "1")
    assert model_of_network(network, unit, ("crane", "crane")).classes == ("crane (1)", "crane (2)")
    with pytest.raises(ConfigError, match="3 labels for a network of 2 classes"):
        model_of_network(network, unit, ("a", "b", "c"))


def test_a_model_without_photos_is_not_ready_for_8_bits_but_knows_its_input() -> None:
    trained = model_of_network(import_onnx(network_file()), CONVENTIONS["unit"])
    assert not trained.quantized
    assert trained.tensors["x/range"] == pytest.approx(trained.preprocessing.range)


def described(text: str) -> ImportedNetwork:
    import dataclasses

    return dataclasses.replace(import_onnx(network_file()), metadata={KEY: text})


def test_what_our_own_files_say_is_the_default() -> None:
    preprocessing = Preprocessing(6, 5, 3, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    text = describe(("cat", "größer"), preprocessing)
    assert read_description(text) == (("cat", "größer"), preprocessing)
    trained = model_of_network(described(text[KEY]))
    assert trained.classes == ("cat", "größer")
    assert model_of_network(described(text[KEY]), CONVENTIONS["none"], ("a", "b")).classes == ("a", "b")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"labels": [1], "preprocessing": {}}', '{"labels": ["a"]}', "\ud800"]
)
def test_a_damaged_description_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        read_description({KEY: text})
