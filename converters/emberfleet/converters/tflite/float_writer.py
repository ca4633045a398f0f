"""The float32 network as a .tflite: batch norm folded, dropout gone, ReLU taken into convolutions."""

from __future__ import annotations

import numpy as np

from emberfleet.converters.tflite.drawing import Drawing, Window
from emberfleet.converters.tflite.flatbuffer import encode_model
from emberfleet.converters.tflite.model import TensorType, TfliteModel
from emberfleet.core.arrays import Tensors
from emberfleet.core.errors import ConversionError
from emberfleet.core.folding import fold
from emberfleet.core.graph import (
    Add,
    Concat,
    Conv2D,
    GlobalAveragePool,
    Graph,
    Input,
    MaxPool,
    Node,
    Relu,
    Reshape,
    Softmax,
)


def write_tflite_float(graph: Graph, tensors: Tensors, description: str = "emberfleet float32") -> bytes:
    """The bytes of a float32 .tflite: ``(1, H, W, C)`` preprocessed pixels in, the graph's output out.

    Args:
        graph: The network as trained, batch norm and dropout included; a final softmax is kept.
        tensors: Parameters and running statistics.
        description: What the file says about itself.

    Raises:
        ConversionError: a structure that TensorFlow Lite cannot express; names the node.
        ShapeError: a tensor is missing or has the wrong shape.
    """
    return encode_model(draw_float(graph, tensors, description))


def draw_float(graph: Graph, tensors: Tensors, description: str = "emberfleet float32") -> TfliteModel:
    """The network as tensors and operators of TensorFlow Lite."""
    folded, held = fold(graph, tensors)
    takers = _relu_takers(folded)
    absorbed = {relu.name for relu in takers.values()}
    drawing = Drawing(TensorType.FLOAT32)
    places: dict[str, int] = {}
    for node in folded.nodes:
        if node.name in absorbed:
            places[node.name] = places[node.inputs[0]]
            continue
        sources = tuple(places[name] for name in node.inputs)
        output = places[node.name] = drawing.activation(node.name, folded.shapes[node.name])
        _draw(drawing, node, held, sources, output, node.name in takers)
    return drawing.model(places[folded.input.name], places[folded.output.name], description)


def _relu_takers(graph: Graph) -> dict[str, Relu]:
    """Convolutions and additions that take in the ReLU after them, or after the Concat they feed."""
    takers: dict[str, Relu] = {}
    for relu in graph.nodes:
        if not isinstance(relu, Relu):
            continue
        before = graph.by_name[relu.inputs[0]]
        chain = [graph.by_name[name] for name in before.inputs] if isinstance(before, Concat) else [before]
        alone = len(graph.consumers[before.name]) == 1
        if alone and all(isinstance(n, (Conv2D, Add)) and len(graph.consumers[n.name]) == 1 for n in chain):
            takers |= {node.name: relu for node in chain}
    return takers


def _draw(
    drawing: Drawing, node: Node, held: Tensors, sources: tuple[int, ...], output: int, relu: bool
) -> None:
    if isinstance(node, Conv2D):
        bias = held[f"{node.name}/bias"] if node.bias else np.zeros(node.channels, np.float32)
        weights = drawing.constant(f"{node.name}/w", held[f"{node.name}/weight"])
        inputs = (sources[0], weights, drawing.constant(f"{node.name}/b", bias))
        drawing.conv(inputs, output, Window(node.kernel, node.stride, node.padding), relu)
    elif isinstance(node, MaxPool):
        drawing.max_pool(sources[0], output, Window(node.kernel, node.stride, node.padding))
    elif isinstance(node, GlobalAveragePool):
        drawing.global_average_pool(sources[0], output)
    elif isinstance(node, Concat):
        drawing.concat(sources, output)
    elif isinstance(node, Add):
        drawing.add((sources[0], sources[1]), output, relu)
    elif isinstance(node, Relu):
        drawing.relu(sources[0], output)
    elif isinstance(node, Reshape):
        drawing.reshape(sources[0], output)
    elif isinstance(node, Softmax):
        drawing.softmax(sources[0], output)
    elif not isinstance(node, Input):
        raise ConversionError(f"{node.kind} '{node.name}' has no form in TensorFlow Lite")
