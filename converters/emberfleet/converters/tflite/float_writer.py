"""The float32 network as a .tflite: batch norm folded, dropout gone, activations taken into convolutions.

Its weights are float32, float16 (half the bytes; a DEQUANTIZE widens each when the file is loaded)
or int8 per output channel (a quarter; the runtime rounds what goes into such a convolution to 8 bits
with a range of its own for every image: TensorFlow Lite's dynamic range quantization).
"""

from __future__ import annotations

from enum import Enum

import numpy as np

from emberfleet.converters.tflite.drawing import Drawing
from emberfleet.converters.tflite.flatbuffer import encode_model
from emberfleet.converters.tflite.metadata import ModelCard
from emberfleet.converters.tflite.model import Activation, TensorType, TfliteModel, TfliteQuantization
from emberfleet.converters.tflite.windows import Window
from emberfleet.core.arrays import Array, Float32, Tensors
from emberfleet.core.errors import ConversionError
from emberfleet.core.folding import without_norms
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import (
    Add,
    AveragePool,
    ClippedRelu,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    GlobalAveragePool,
    Input,
    MaxPool,
    Node,
    Relu,
    Reshape,
    Softmax,
)
from emberfleet.core.quantization import quantize_weights, weight_scales

FEWEST_DYNAMIC_WEIGHTS = 1024
"""Convolutions with fewer weights than this keep float32: rounding their input would cost more than it saves.

The same limit as TensorFlow's converter has.
"""
RELU6_CEILING = 6.0


class Weights(Enum):
    """What the weights of convolutions are stored as."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    DYNAMIC = "dynamic"


def write_tflite_float(
    graph: Graph,
    tensors: Tensors,
    description: str = "emberfleet float32",
    weights: Weights = Weights.FLOAT32,
    card: ModelCard | None = None,
) -> bytes:
    """The bytes of a .tflite that takes and gives float32.

    ``(1, H, W, C)`` preprocessed pixels in, the graph's output out; any batch after resizing the input.

    Args:
        graph: The network as trained, batch norm and dropout included; a final softmax is kept.
        tensors: Parameters and running statistics.
        description: What the file says about itself.
        weights: What the weights are stored as.
        card: Metadata to put into the file.

    Raises:
        ConversionError: a structure that TensorFlow Lite cannot express, or a weight that float16
            cannot hold; names the node.
        ShapeError: a tensor is missing or has the wrong shape.
    """
    return encode_model(draw_float(graph, tensors, description, weights), card)


def draw_float(
    graph: Graph,
    tensors: Tensors,
    description: str = "emberfleet float32",
    weights: Weights = Weights.FLOAT32,
) -> TfliteModel:
    """The network as tensors and operators of TensorFlow Lite."""
    folded, held = without_norms(graph, tensors)
    return _Writer(folded, held, weights).run(description)


class _Writer:
    """One pass over the folded graph; `places` maps its nodes to tensors."""

    def __init__(self, graph: Graph, held: Tensors, weights: Weights) -> None:
        self.graph, self.held, self.weights = graph, held, weights
        self.drawing = Drawing(TensorType.FLOAT32)
        self.places: dict[str, int] = {}
        self.fused, self.absorbed = _taken_in(graph)

    def run(self, description: str) -> TfliteModel:
        for node in self.graph.nodes:
            if node.name in self.absorbed:
                self.places[node.name] = self.places[node.inputs[0]]
            else:
                sources = tuple(self.places[name] for name in node.inputs)
                self.places[node.name] = self.drawing.activation(node.name, self.graph.shapes[node.name])
                self._draw(node, sources, self.places[node.name])
        start, end = self.places[self.graph.input.name], self.places[self.graph.output.name]
        return self.drawing.model(start, end, description)

    def _draw(self, node: Node, sources: tuple[int, ...], output: int) -> None:
        drawing = self.drawing
        if isinstance(node, (Conv2D, DepthwiseConv2D)):
            self._conv(node, sources[0], output)
        elif isinstance(node, MaxPool):
            drawing.max_pool(sources[0], output, Window(node.kernel, node.stride, node.padding))
        elif isinstance(node, AveragePool):
            drawing.average_pool(sources[0], output, Window(node.kernel, node.stride, node.padding))
        elif isinstance(node, GlobalAveragePool):
            drawing.global_average_pool(sources[0], output)
        elif isinstance(node, Concat):
            drawing.concat(sources, output)
        elif isinstance(node, Add):
            drawing.add((sources[0], sources[1]), output, self.fused.get(node.name, Activation.NONE))
        elif isinstance(node, Relu):
            drawing.relu(sources[0], output)
        elif isinstance(node, ClippedRelu):
            self._clipped_relu(node, sources[0], output)
        elif isinstance(node, Reshape):
            drawing.reshape(sources[0], output)
        elif isinstance(node, Softmax):
            drawing.softmax(sources[0], output)
        elif not isinstance(node, Input):
            raise ConversionError(f"{node.kind} '{node.name}' has no form in TensorFlow Lite")

    def _conv(self, node: Conv2D | DepthwiseConv2D, source: int, output: int) -> None:
        weight = self.held[f"{node.name}/weight"]
        bias = self.held[f"{node.name}/bias"] if node.bias else np.zeros(len(weight), np.float32)
        inputs = (source, self._constant(node, weight), self.drawing.constant(f"{node.name}/b", bias))
        self.drawing.conv(
            inputs,
            output,
            Window(node.kernel, node.stride, node.padding),
            self.fused.get(node.name, Activation.NONE),
            node.multiplier if isinstance(node, DepthwiseConv2D) else None,
        )

    def _constant(self, node: Conv2D | DepthwiseConv2D, weight: Float32) -> int:
        """A convolution's weights in the chosen type and TensorFlow Lite's order."""
        name = f"{node.name}/w"
        depthwise = isinstance(node, DepthwiseConv2D)
        if self.weights is Weights.FLOAT16:
            if not (np.abs(weight) <= np.finfo(np.float16).max).all():
                raise ConversionError(f"{node.kind} '{node.name}': a weight is beyond what float16 holds")
            half = weight.astype(np.float16)
            return self.drawing.widened(self.drawing.constant(name, _in_order(half, depthwise)))
        if self.weights is Weights.DYNAMIC and weight.size >= FEWEST_DYNAMIC_WEIGHTS:
            if not np.isfinite(weight).all():
                raise ConversionError(f"{node.kind} '{node.name}': weights hold values that are not finite")
            scales = weight_scales(weight)
            q = _in_order(quantize_weights(weight, scales), depthwise)
            return self.drawing.constant(name, q, TfliteQuantization(scales, 0, 3 if depthwise else 0))
        return self.drawing.constant(name, _in_order(weight, depthwise))

    def _clipped_relu(self, node: ClippedRelu, source: int, output: int) -> None:
        if node.ceiling == RELU6_CEILING:
            self.drawing.relu6(source, output)
            return
        if node.name not in self.fused:
            positive = self.drawing.activation(f"{node.name}/positive", self.graph.shapes[node.name])
            self.drawing.relu(source, positive)
            source = positive
        self.drawing.minimum(source, output, node.ceiling)


def _in_order(weight: Array, depthwise: bool) -> Array:
    """``(O, KH, KW, C)``, or ``(1, KH, KW, O)`` where the convolution is depthwise."""
    return weight.transpose(3, 1, 2, 0) if depthwise else weight


def _taken_in(graph: Graph) -> tuple[dict[str, Activation], set[str]]:
    """What convolutions and additions take in of the activation after them, or after the Concat they feed.

    Returns:
        By the name of the operation, the activation it takes in; under a clipped ReLU's own name, what
        was taken in of it where that is only the ReLU. And the activations that were taken in whole.
    """
    fused: dict[str, Activation] = {}
    absorbed: set[str] = set()
    for node in graph.nodes:
        if not isinstance(node, (Relu, ClippedRelu)):
            continue
        before = graph.by_name[node.inputs[0]]
        chain = [graph.by_name[name] for name in before.inputs] if isinstance(before, Concat) else [before]
        alone = len(graph.consumers[before.name]) == 1
        if alone and all(
            isinstance(n, (Conv2D, DepthwiseConv2D, Add)) and len(graph.consumers[n.name]) == 1 for n in chain
        ):
            six = isinstance(node, ClippedRelu) and node.ceiling == RELU6_CEILING
            taken = Activation.RELU6 if six else Activation.RELU
            fused |= {taker.name: taken for taker in chain}
            if six or isinstance(node, Relu):
                absorbed.add(node.name)
            else:
                fused[node.name] = taken
    return fused, absorbed
