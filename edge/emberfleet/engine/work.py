"""About how long a node's forward pass takes, to weigh computing it twice against keeping its output."""

from __future__ import annotations

import math

from emberfleet.core.graph import Conv2D, Graph, Input, Node

PASS_WORK = 32
"""Multiply-adds that take as long as reading and writing one value in a pass without a convolution."""


def convolution_work(graph: Graph, node: Conv2D) -> int:
    """Multiply-adds of a convolution for one image."""
    taps = node.kernel[0] * node.kernel[1]
    return math.prod(graph.shapes[node.name]) * taps * graph.shapes[node.inputs[0]][-1]


def pass_work(graph: Graph, node: Node) -> int:
    """The same measure for a pass over a node's output."""
    return PASS_WORK * math.prod(graph.shapes[node.name])


def forward_work(graph: Graph, node: Node) -> int:
    """Work of a node's forward pass for one image."""
    if isinstance(node, Input):
        return 0
    return convolution_work(graph, node) if isinstance(node, Conv2D) else pass_work(graph, node)
