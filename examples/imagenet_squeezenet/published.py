"""The published SqueezeNet 1.1 as a model of ours: from an OpenVINO IR of float16 to a graph and tensors.

The folder holds what the authors' Caffe model became in OpenVINO's model optimizer:

===========================  =================================================================
``squeezenet1.1.xml``        the layers; every convolution names its bytes in the ``.bin``
``squeezenet1.1.bin``        weights ``(O, C, KH, KW)`` and biases ``(O,)``, little-endian float16
``squeezenet1.1.labels``     the names of the 1,000 classes, one a line
``deploy_v1.1.prototxt``     the network as its authors published it
===========================  =================================================================

It reads blue, green, red, less 104, 117, 123. Ours reads ``(pixel / 255 - mean) / std`` of red, green,
blue: with ``std = 1 / 255`` and ``mean = (123, 117, 104) / 255`` that is the same number, and the
first convolution's input channels are turned round.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from emberfleet.core.arrays import Float32
from emberfleet.core.errors import FormatError
from emberfleet.core.files import read_limited
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.train.models import squeezenet_1_1
from emberfleet.train.trained import TrainedModel

LAYERS, WEIGHTS = "squeezenet1.1.xml", "squeezenet1.1.bin"
LABELS, NETWORK = "squeezenet1.1.labels", "deploy_v1.1.prototxt"
FILES = (LAYERS, WEIGHTS, LABELS, NETWORK)
SIDE = 227
CLASSES = 1000
MEAN_RGB = (123.0, 117.0, 104.0)
MAX_WEIGHT_BYTES = 16 << 20
MAX_TEXT_BYTES = 4 << 20
MAX_LABEL_CHARACTERS = 100


class Convolution(NamedTuple):
    """One convolution of the published network, and where its float16 values lie, in bytes."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    channels: int
    weights: slice
    biases: slice


def read_published(folder: Path) -> TrainedModel:
    """The published network in float32, without quantization ranges.

    Raises:
        StorageError: A file is missing.
        FormatError: A file is damaged, or not of SqueezeNet 1.1.
    """
    graph = squeezenet_1_1(CLASSES, SIDE)
    layers = read_layers(read_limited(folder / LAYERS, MAX_TEXT_BYTES))
    stated = published_outputs(read_limited(folder / NETWORK, MAX_TEXT_BYTES).decode("utf-8", "replace"))
    if stated != {name: layer.channels for name, layer in layers.items()}:
        raise FormatError(f"{folder}: {LAYERS} and {NETWORK} do not list the same convolutions")
    blob = read_limited(folder / WEIGHTS, MAX_WEIGHT_BYTES)
    preprocessing = Preprocessing(SIDE, SIDE, 3, tuple(mean / 255.0 for mean in MEAN_RGB), (1.0 / 255.0,) * 3)
    tensors = tensors_of(graph, layers, blob)
    tensors[f"{graph.input.name}/range"] = np.array(preprocessing.range, np.float32)
    classes = class_names(read_limited(folder / LABELS, MAX_TEXT_BYTES).decode("utf-8", "replace"))
    settings = {"model": "squeezenet_1_1", "source": "published SqueezeNet 1.1, float16"}
    return TrainedModel(graph, tensors, preprocessing, classes, settings=settings)


def published_name(node: Conv2D) -> str:
    """What the authors call a convolution of ours."""
    return node.name.replace("/squeeze", "/squeeze1x1")


def tensors_of(graph: Graph, layers: dict[str, Convolution], blob: bytes) -> dict[str, Float32]:
    """Every convolution's weight ``(O, KH, KW, C)`` and bias, the first one's channels as red, green, blue.

    Raises:
        FormatError: A convolution is missing or another one than the graph's, or bytes are left over.
    """
    tensors: dict[str, Float32] = {}
    used = 0
    for node in graph.nodes:
        if not isinstance(node, Conv2D):
            continue
        layer = layers.get(published_name(node))
        if layer is None:
            raise FormatError(f"{LAYERS}: no convolution '{published_name(node)}'; is it SqueezeNet 1.1?")
        wanted = (node.kernel, node.stride, node.padding[:2], node.channels)
        if layer[:4] != wanted:
            raise FormatError(f"{LAYERS}: '{published_name(node)}' is {layer[:4]}, expected {wanted}")
        o, kh, kw, c = graph.parameters[f"{node.name}/weight"]
        weight = _values(blob, layer.weights, o * kh * kw * c, node.name).reshape(o, c, kh, kw)
        if node.inputs == (graph.input.name,):
            weight = weight[:, ::-1]
        tensors[f"{node.name}/weight"] = np.ascontiguousarray(weight.transpose(0, 2, 3, 1))
        tensors[f"{node.name}/bias"] = _values(blob, layer.biases, o, node.name)
        used += 2 * (weight.size + o)
    if used != len(blob):
        raise FormatError(f"{WEIGHTS}: {len(blob)} bytes, expected the {used} of SqueezeNet 1.1")
    return tensors


def read_layers(text: bytes) -> dict[str, Convolution]:
    """The convolutions in the IR's XML by name.

    Raises:
        FormatError: Not the XML of an IR.
    """
    if b"<!DOCTYPE" in text:
        raise FormatError(f"{LAYERS}: declares a document type, expected the plain XML of an IR")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314  (no document type, so no entities; 4 MiB at most)
        return {
            layer.attrib["name"]: _read_convolution(layer)
            for layer in root.iter("layer")
            if layer.get("type") == "Convolution"
        }
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise FormatError(f"{LAYERS}: not an OpenVINO IR: {error}") from error


def published_outputs(text: str) -> dict[str, int]:
    """The convolutions in the authors' prototxt: their names and channels."""
    return {
        name: int(channels)
        for name, channels in re.findall(
            r'name: "([^"]+)"\s+type: "Convolution".*?num_output: (\d+)', text, re.DOTALL
        )
    }


def class_names(text: str) -> tuple[str, ...]:
    """One name a line, shortened to what a manifest holds; names that repeat get their number.

    Raises:
        FormatError: Not 1,000 lines.
    """
    names = [line.strip()[:MAX_LABEL_CHARACTERS].strip() for line in text.splitlines() if line.strip()]
    if len(names) != CLASSES:
        raise FormatError(f"{LABELS}: {len(names)} names, expected {CLASSES}")
    counts = Counter(names)
    return tuple(
        name if counts[name] == 1 else f"{name[:90]} ({number})" for number, name in enumerate(names)
    )


def _values(blob: bytes, where: slice, count: int, name: str) -> Float32:
    found = blob[where]
    if len(found) != 2 * count:
        raise FormatError(f"{WEIGHTS}: '{name}' has {len(found)} bytes, expected {2 * count}")
    values = np.frombuffer(found, "<f2").astype(np.float32)
    if not np.isfinite(values).all():
        raise FormatError(f"{WEIGHTS}: '{name}' holds values that are not finite")
    return values


def _read_convolution(layer: ElementTree.Element) -> Convolution:
    data, weights, biases = layer.find("data"), layer.find("blobs/weights"), layer.find("blobs/biases")
    if data is None or weights is None or biases is None:
        raise ValueError(f"convolution '{layer.get('name')}' lacks data, weights or biases")
    return Convolution(
        _pair(data.attrib["kernel"]),
        _pair(data.attrib["strides"]),
        _pair(data.attrib["pads_begin"]),
        int(data.attrib["output"]),
        _extent(weights),
        _extent(biases),
    )


def _pair(text: str) -> tuple[int, int]:
    first, second = (int(number) for number in text.split(","))
    return first, second


def _extent(blob: ElementTree.Element) -> slice:
    offset, size = int(blob.attrib["offset"]), int(blob.attrib["size"])
    if offset < 0 or not 0 <= size <= MAX_WEIGHT_BYTES:
        raise ValueError(f"a blob at {offset} of {size} bytes")
    return slice(offset, offset + size)
