"""A global average pool with a range of its own, said with operations that have one.

The 8-bit pool keeps the scale of what it reads: a class map that reaches 388 with means below 30 leaves 20
different scores. A mean over h and then over w as two depthwise convolutions is the same function, and each
has its own range: the scores fill 256 steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from emberfleet.core.arrays import Float32
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import DepthwiseConv2D, GlobalAveragePool, Node, Padding, Reshape

NONE: Padding = (0, 0, 0, 0)


def spread_pools_of(graph: Graph) -> tuple[str, ...]:
    """The convolutions that `spread_pools` has put there: means, which no training may turn into others."""
    found: list[str] = []
    for node in graph.nodes:
        rows, columns = (graph.by_name.get(f"{node.name}/{part}") for part in ("rows", "columns"))
        if not (isinstance(rows, DepthwiseConv2D) and isinstance(columns, DepthwiseConv2D)):
            continue
        height, width, _ = graph.shapes[rows.inputs[0]]
        chained = columns.inputs == (rows.name,) and node.inputs == (columns.name,)
        if chained and rows.kernel == (height, 1) and columns.kernel == (1, width):
            found += [rows.name, columns.name]
    return tuple(found)


def spread_pools(graph: Graph, tensors: Mapping[str, Float32]) -> tuple[Graph, dict[str, Float32]]:
    """Replace every global average pool over more than one pixel; names and shapes of the rest stay."""
    nodes: list[Node] = []
    held = dict(tensors)
    for node in graph.nodes:
        if not isinstance(node, GlobalAveragePool):
            nodes.append(node)
            continue
        height, width, channels = graph.shapes[node.inputs[0]]
        rows, columns = f"{node.name}/rows", f"{node.name}/columns"
        nodes += [
            DepthwiseConv2D(rows, node.inputs, 1, (height, 1), (1, 1), NONE, True),
            DepthwiseConv2D(columns, (rows,), 1, (1, width), (1, 1), NONE, True),
            Reshape(node.name, (columns,), (channels,)),
        ]
        for name, kernel in ((rows, (height, 1)), (columns, (1, width))):
            held[f"{name}/weight"] = np.full((channels, *kernel, 1), 1.0 / max(kernel), np.float32)
            held[f"{name}/bias"] = np.zeros(channels, np.float32)
    return Graph(tuple(nodes)), held
