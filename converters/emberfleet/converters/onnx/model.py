"""From an imported network to a model: what its pixels are, and the names of its classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from emberfleet.converters.onnx.importer import ImportedNetwork
from emberfleet.converters.onnx.metadata import read_description
from emberfleet.core.arrays import Float32
from emberfleet.core.errors import ConfigError, ConversionError
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.core.quantization import quantization_points
from emberfleet.train.trained import TrainedModel


@dataclass(frozen=True, slots=True)
class Pixels:
    """What the file's network reads: ``(pixel / 255 - mean) / std``, per channel in its own order.

    Attributes:
        mean: One value, or one per channel.
        std: One value, or one per channel.
        reversed: Whether its channels are blue, green, red.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    reversed: bool = False


CONVENTIONS: Final[Mapping[str, Pixels]] = {
    "imagenet": Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "caffe": Pixels((103.939 / 255, 116.779 / 255, 123.68 / 255), (1 / 255,), True),
    "tf": Pixels((0.5,), (0.5,)),
    "unit": Pixels((0.0,), (1.0,)),
    "none": Pixels((0.0,), (1 / 255,)),
}
"""torchvision's; Caffe's and VGG's (blue, green, red less a mean); -1 to 1; 0 to 1; 0 to 255."""


def model_of_network(
    network: ImportedNetwork, pixels: Pixels | None = None, labels: tuple[str, ...] | None = None
) -> TrainedModel:
    """The folder's contents, without ranges for 8 bits.

    Args:
        network: What was imported.
        pixels: What it reads; None: what the file says, if it is one of ours.
        labels: Its classes in order; None: what the file says, else their numbers. Names that occur twice
            are numbered.

    Raises:
        ConfigError: nothing says what the network reads, or labels and classes are not equally many.
        ConversionError: the channels cannot be put into our order.
    """
    described = read_description(network.metadata)
    names = labels or (described[0] if described else tuple(map(str, range(network.graph.classes))))
    if len(names) != network.graph.classes:
        raise ConfigError(f"{len(names)} labels for a network of {network.graph.classes} classes")
    if pixels is None and described is None:
        raise ConfigError(
            f"say what pixels the network was trained on: --preprocess {', '.join(CONVENTIONS)}; or --mean "
            "and --std"
        )
    if pixels is None:
        assert described is not None
        pixels = Pixels(described[1].mean, described[1].std)
    graph, tensors = network.graph, dict(network.tensors)
    if pixels.reversed:
        tensors = _with_channels_reversed(graph, tensors)
    preprocessing = _preprocessing(network, pixels)
    fixed = quantization_points(graph)[graph.input.name]
    tensors[fixed] = np.array(preprocessing.range, np.float32)
    return TrainedModel(
        graph,
        tensors,
        preprocessing,
        _distinct(names),
        settings={"imported": "onnx", "producer": network.producer, "opset": network.opset},
    )


def _preprocessing(network: ImportedNetwork, pixels: Pixels) -> Preprocessing:
    """What the file's network expects of pixels, and what it does to them itself, in one step."""
    height, width, channels = network.graph.input.shape
    for what, values in (("mean", pixels.mean), ("std", pixels.std)):
        if len(values) not in (1, channels):
            raise ConfigError(f"{len(values)} values of {what} for an image of {channels} channels")
    scale, shift = np.array(network.input_scale), np.array(network.input_shift)
    mean = np.broadcast_to(pixels.mean, channels) - shift * np.broadcast_to(pixels.std, channels) / scale
    std = np.broadcast_to(pixels.std, channels) / scale
    if pixels.reversed:
        mean, std = mean[::-1], std[::-1]
    return Preprocessing(height, width, channels, tuple(map(float, mean)), tuple(map(float, std)))


def _with_channels_reversed(graph: Graph, tensors: Mapping[str, Float32]) -> dict[str, Float32]:
    """Weights that read red, green, blue where they read blue, green, red."""
    turned = dict(tensors)
    for node in graph.consumers[graph.input.name]:
        if not isinstance(node, Conv2D):
            raise ConversionError(
                f"{node.kind} '{node.name}' reads the image; its channels can be put into our order only "
                "where a conv2d does"
            )
        name = f"{node.name}/weight"
        turned[name] = np.ascontiguousarray(tensors[name][..., ::-1])
    return turned


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, those that occur twice with a number behind them."""
    counts, seen = Counter(names), Counter[str]()
    found: list[str] = []
    for name in names:
        seen[name] += 1
        found.append(f"{name} ({seen[name]})" if counts[name] > 1 else name)
    return tuple(found)
