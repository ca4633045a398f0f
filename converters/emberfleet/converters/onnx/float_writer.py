"""The float32 network as a .onnx: batch norm folded, dropout gone."""

from __future__ import annotations

from collections.abc import Mapping

from emberfleet.converters.onnx.drawing import INPUT, OUTPUT, Drawing, channels_first, one
from emberfleet.core.arrays import Tensors
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
    MaxPool,
    Node,
    Relu,
    Reshape,
    Softmax,
)


def write_onnx_float(
    graph: Graph,
    tensors: Tensors,
    metadata: Mapping[str, str] | None = None,
    description: str = "emberfleet float32",
) -> bytes:
    """The bytes of a float32 .onnx: ``(N, C, H, W)`` preprocessed pixels in, the graph's output out.

    Args:
        graph: The network as trained, batch norm and dropout included; a final softmax is kept.
        tensors: Parameters and running statistics.
        metadata: Texts for the file, see `metadata.describe`.
        description: What the file says about itself.

    Raises:
        ConversionError: a structure that has no form in ONNX; names the node.
        ShapeError: a tensor is missing or has the wrong shape.
    """
    folded, held = without_norms(graph, tensors)
    drawing = Drawing()
    names = {folded.input.name: INPUT}
    for node in folded.nodes[1:]:
        names[node.name] = OUTPUT if node is folded.output else drawing.unused(node.name)
        _draw(drawing, folded, node, held, names)
    shapes = folded.shapes
    return drawing.encode(shapes[folded.input.name], shapes[folded.output.name], description, metadata or {})


def _draw(drawing: Drawing, graph: Graph, node: Node, held: Tensors, names: Mapping[str, str]) -> None:
    sources = tuple(names[name] for name in node.inputs)
    source, output = sources[0], names[node.name]
    shape = graph.shapes[node.inputs[0]]
    if isinstance(node, Conv2D | DepthwiseConv2D):
        weights = drawing.constant(f"{node.name}/weight", channels_first(held[f"{node.name}/weight"]))
        bias = drawing.constant(f"{node.name}/bias", held[f"{node.name}/bias"]) if node.bias else None
        group = shape[2] if isinstance(node, DepthwiseConv2D) else 1
        drawing.conv(source, (weights, bias), output, node.kernel, node.stride, node.padding, group)
    elif isinstance(node, MaxPool):
        drawing.add(
            "MaxPool", sources, output, kernel_shape=node.kernel, strides=node.stride, pads=node.padding
        )
    elif isinstance(node, AveragePool):
        drawing.add(
            "AveragePool", sources, output, kernel_shape=node.kernel, strides=node.stride, pads=node.padding
        )
    elif isinstance(node, GlobalAveragePool):
        drawing.global_average_pool(source, output)
    elif isinstance(node, Concat):
        drawing.add("Concat", sources, output, axis=1)
    elif isinstance(node, Add):
        drawing.add("Add", sources, output)
    elif isinstance(node, Relu):
        drawing.add("Relu", sources, output)
    elif isinstance(node, ClippedRelu):
        bounds = (
            drawing.constant(f"{output}/low", one(0)),
            drawing.constant(f"{output}/high", one(node.ceiling)),
        )
        drawing.add("Clip", (source, *bounds), output)
    elif isinstance(node, Reshape):
        drawing.reshape(source, output, shape, node.shape)
    elif isinstance(node, Softmax):
        drawing.add("Softmax", sources, output, axis=-1)
    else:
        raise ConversionError(f"{node.kind} '{node.name}' has no form in ONNX")
