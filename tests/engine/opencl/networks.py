"""Graphs whose channels fill whole vectors, so that concats are in place, and windows that hurt."""

from __future__ import annotations

from collections.abc import Mapping

from emberfleet.core.graph import Graph
from emberfleet.core.nodes import (
    Add,
    BatchNorm,
    ClippedRelu,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    GlobalAveragePool,
    Input,
    MaxPool,
    Node,
    Padding,
    Relu,
    Reshape,
)
from tests.core.networks import SAME3, fire
from tests.engine.networks import MOBILE_NETWORKS, NETWORKS


def wide_network() -> Graph:
    """Two fires with batch norm, a pool between them; the first concat has a second reader."""
    return Graph(
        (
            Input("input", (), (9, 9, 3)),
            Conv2D("conv1", ("input",), 32, (3, 3), (2, 2), SAME3, bias=False),
            BatchNorm("conv1/norm", ("conv1",)),
            Relu("conv1/relu", ("conv1/norm",)),
            *fire("fire2", "conv1/relu", 16, 16),
            Add("bypass", ("fire2/relu", "conv1/relu")),
            MaxPool("pool2", ("bypass",), (3, 3), (2, 2), (0, 0, 1, 1)),
            *fire("fire3", "pool2", 16, 32),
            Conv2D("classifier", ("fire3/relu",), 10),
            GlobalAveragePool("average", ("classifier",)),
        )
    )


def plain_network() -> Graph:
    """Fires without batch norm: biases, a ReLU behind the concat, one concat inside another, strides."""
    return Graph(
        (
            Input("input", (), (8, 7, 1)),
            Conv2D("conv1", ("input",), 16, (3, 3), (1, 1), SAME3),
            Relu("relu1", ("conv1",)),
            Conv2D("e1", ("relu1",), 16),
            Conv2D("e3", ("relu1",), 16, (3, 3), (1, 1), SAME3),
            Concat("joined", ("e1", "e3")),
            Relu("joined/relu", ("joined",)),
            Conv2D("down", ("joined/relu",), 32, (3, 3), (2, 2), SAME3),
            Conv2D("side", ("joined/relu",), 16, (1, 1), (2, 2)),
            Concat("inner", ("down", "side")),
            MaxPool("pool", ("inner",), (2, 2), (1, 1), (1, 1, 0, 0)),
            Concat("outer", ("inner", "pool")),
            Conv2D("again", ("down",), 96, (3, 3), (1, 1), SAME3),
            Add("sum", ("outer", "again")),
            Conv2D("dense", ("sum",), 6, (4, 4)),
            Reshape("matrix", ("dense",), (2, 3)),
        )
    )


def window_network(
    size: tuple[int, int],
    channels: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: Padding,
) -> Graph:
    """One convolution between two others, so that all three of its gradients are seen."""
    return Graph(
        (
            Input("input", (), (*size, 2)),
            Conv2D("before", ("input",), channels[0]),
            Conv2D("conv", ("before",), channels[1], kernel, stride, pad),
            Conv2D("after", ("conv",), 3),
            GlobalAveragePool("average", ("after",)),
        )
    )


DEPTHWISE: Mapping[str, tuple[int, tuple[int, int], tuple[int, int], Padding]] = {
    "same": (1, (3, 3), (1, 1), (1, 1, 1, 1)),
    "halved": (1, (3, 3), (2, 2), (1, 1, 1, 1)),
    "halved, odd pixel last": (1, (3, 3), (2, 2), (0, 0, 1, 1)),
    "five by five": (1, (5, 5), (2, 1), (2, 2, 2, 2)),
    "lopsided": (1, (4, 3), (3, 2), (1, 0, 2, 1)),
    "stride beyond the window": (1, (2, 2), (3, 3), (0, 0, 0, 0)),
    "padding beyond the window": (1, (2, 2), (2, 1), (3, 2, 2, 3)),
    "one pixel": (1, (1, 1), (1, 1), (0, 0, 0, 0)),
    "each channel twice": (2, (3, 3), (1, 1), (1, 1, 1, 1)),
    "each channel thrice": (3, (2, 3), (2, 2), (0, 1, 1, 1)),
    "too long to unroll": (1, (9, 9), (1, 1), (4, 4, 4, 4)),
    "too far to unroll": (1, (3, 2), (4, 5), (1, 0, 0, 1)),
    "as large as the image": (1, (9, 7), (1, 1), (0, 0, 0, 0)),
}
"""Multiplier, window, stride and padding of depthwise convolutions of an image of 9 x 7."""


def depthwise_network(channels: int) -> Graph:
    """All of `DEPTHWISE` beside one another: one program to build. A ReLU behind every other one."""
    nodes: list[Node] = [Input("input", (), (9, 7, 3)), Conv2D("before", ("input",), channels)]
    ends: list[str] = []
    for index, (multiplier, kernel, stride, pad) in enumerate(DEPTHWISE.values()):
        conv = DepthwiseConv2D(f"d{index}", ("before",), multiplier, kernel, stride, pad, bias=index % 3 > 0)
        rows, columns, _ = conv.infer(((9, 7, channels),))
        nodes.append(conv)
        if index % 2:
            nodes.append(ClippedRelu(f"d{index}/relu", (conv.name,), 0.8))
        nodes.append(Conv2D(f"e{index}", (nodes[-1].name,), 2, (rows, columns)))
        ends.append(nodes[-1].name)
    nodes += [Concat("ends", tuple(ends)), Conv2D("after", ("ends",), 4)]
    return Graph((*nodes, GlobalAveragePool("average", ("after",))))


WINDOWS: Mapping[str, Graph] = {
    "one pixel": window_network((1, 1), (1, 1), (1, 1), (1, 1), (0, 0, 0, 0)),
    "prime sizes": window_network((13, 7), (17, 19), (3, 3), (1, 1), (1, 1, 1, 1)),
    "stride beyond the window": window_network((11, 8), (3, 33), (2, 2), (3, 4), (0, 0, 0, 0)),
    "seven by seven": window_network((15, 15), (3, 16), (7, 7), (2, 2), (3, 3, 3, 3)),
    "lopsided": window_network((6, 5), (8, 48), (2, 3), (1, 2), (1, 0, 0, 2)),
    "padding beyond the window": window_network((4, 4), (2, 5), (2, 2), (1, 1), (3, 3, 3, 3)),
    "as large as the image": window_network((5, 6), (16, 64), (5, 6), (1, 1), (0, 0, 0, 0)),
}

GRAPHS: Mapping[str, Graph] = {
    **NETWORKS,
    **MOBILE_NETWORKS,
    "wide fires": wide_network(),
    "no batch norm": plain_network(),
}
