"""About how long a node's forward pass takes, to weigh computing it twice against keeping its output."""

from __future__ import annotations

import math

from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D, DepthwiseConv2D, Input, Node

PASS_WORK = 32
"""Multiply-adds that take as long as reading and writing one value in a pass without a convolution."""

TAP_WORK = 4
"""Multiply-adds of a convolution that take as long as one of a depthwise convolution."""


def convolution_work(graph: Graph, node: Conv2D) -> int:
    """Multiply-adds of a convolution for one image."""
    taps = node.kernel[0] * node.kernel[1]
    return math.prod(graph.shapes[node.name]) * taps * graph.shapes[node.inputs[0]][-1]


def depthwise_work(graph: Graph, node: DepthwiseConv2D) -> int:
    """The same measure for a depthwise convolution: a pass, and each place in its kernel."""
    taps = node.kernel[0] * node.kernel[1]
    return pass_work(graph, node) + TAP_WORK * taps * math.prod(graph.shapes[node.name])


def pass_work(graph: Graph, node: Node) -> int:
    """The same measure for a pass over a node's output."""
    return PASS_WORK * math.prod(graph.shapes[node.name])


def forward_work(graph: Graph, node: Node) -> int:
    """Work of a node's forward pass for one image."""
    if isinstance(node, Input):
        return 0
    if isinstance(node, DepthwiseConv2D):
        return depthwise_work(graph, node)
    return convolution_work(graph, node) if isinstance(node, Conv2D) else pass_work(graph, node)
