"""Graphs that hurt, and tensors for them, for the tests of every backend."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from emberfleet.core.arrays import Float32, Float64, Int64
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import (
    Add,
    AveragePool,
    BatchNorm,
    ClippedRelu,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    Dropout,
    GlobalAveragePool,
    Input,
    MaxPool,
    Relu,
    Reshape,
    Softmax,
)
from tests.core.networks import SAME3, bypass_network, mobile_network


def tangled_network() -> Graph:
    """Tensors with several readers, lopsided padding, strides, a concat in a concat, positions x classes."""
    return Graph(
        (
            Input("image", (), (7, 6, 3)),
            Conv2D("c1", ("image",), 5, (3, 2), (2, 1), (1, 0, 0, 1)),
            BatchNorm("b1", ("c1",)),
            Relu("r1", ("b1",)),
            Conv2D("s", ("r1",), 4),
            Conv2D("e1", ("s",), 3, bias=False),
            Conv2D("e3", ("s",), 2, (3, 3), (1, 1), (1, 1, 1, 1)),
            Concat("inner", ("e1", "e3")),
            Add("by", ("inner", "r1")),
            BatchNorm("b2", ("by",)),
            Relu("r2", ("b2",)),
            Concat("outer", ("r2", "inner", "r2")),
            Relu("r3", ("outer",)),
            Conv2D("strided", ("r3",), 6, (2, 2), (3, 3), (0, 1, 1, 0)),
            MaxPool("pool", ("r3",), (3, 3), (3, 3), (1, 0, 1, 2)),
            Conv2D("narrow", ("pool",), 6),
            Add("both", ("narrow", "strided")),
            Add("twice", ("both", "both")),
            Dropout("drop", ("twice",), 0.3),
            Conv2D("cl", ("drop",), 4),
            GlobalAveragePool("average", ("cl",)),
            Reshape("matrix", ("average",), (2, 2)),
            Softmax("softmax", ("matrix",)),
        )
    )


def linear_network() -> Graph:
    """A convolution as large as the image and a reshape: the smallest classifier."""
    return Graph(
        (
            Input("image", (), (3, 5, 1)),
            Conv2D("dense", ("image",), 3, (3, 5)),
            Reshape("flat", ("dense",), (3,)),
        )
    )


def shared_pool_network() -> Graph:
    """Pools with several readers, a ReLU on the image, a batch norm on a tensor that others read."""
    return Graph(
        (
            Input("image", (), (5, 5, 4)),
            Relu("positive", ("image",)),
            Conv2D("a", ("positive",), 4, (3, 3), (1, 1), (1, 1, 1, 1), bias=False),
            BatchNorm("norm", ("a",)),
            MaxPool("pool_a", ("a",), (2, 2), (1, 1)),
            MaxPool("pool_n", ("norm",), (2, 2), (1, 1)),
            Concat("joined", ("pool_a", "pool_n")),
            BatchNorm("joined/norm", ("joined",)),
            Relu("joined/relu", ("joined/norm",)),
            Add("sum", ("pool_a", "pool_n")),
            Concat("all", ("sum", "joined/relu")),
            Conv2D("cl", ("all",), 3),
            GlobalAveragePool("average", ("cl",)),
        )
    )


def shared_depthwise_network() -> Graph:
    """Depthwise convolutions and average pools of tensors with several readers, in and out of concats."""
    return Graph(
        (
            Input("image", (), (6, 7, 2)),
            ClippedRelu("bright", ("image",), 1.0),
            DepthwiseConv2D("wide", ("bright",), 3, (3, 2), (1, 1), (2, 1, 0, 0)),
            AveragePool("mean", ("wide",), (2, 2), (1, 1), (1, 0, 0, 1)),
            DepthwiseConv2D("again", ("wide",), 1, (1, 3), (1, 1), (0, 1, 0, 1), bias=False),
            DepthwiseConv2D("doubled", ("wide",), 2, (3, 3), (1, 1), SAME3),
            ClippedRelu("doubled/clipped", ("doubled",), 0.5),
            MaxPool("peak", ("wide",), (2, 2), (1, 1), (1, 1, 0, 0)),
            Concat("joined", ("mean", "doubled/clipped", "again", "peak")),
            ClippedRelu("joined/clipped", ("joined",), 2.0),
            DepthwiseConv2D("few", ("joined",), 1, (2, 2), (5, 3), (0, 0, 4, 0)),
            AveragePool("fewer", ("joined/clipped",), (3, 2), (5, 3), (1, 0, 1, 0)),
            Add("sum", ("few", "fewer")),
            AveragePool("last", ("sum",), (1, 2), (1, 1), (0, 1, 0, 1)),
            Conv2D("cl", ("last",), 3),
            GlobalAveragePool("average", ("cl",)),
        )
    )


def residual_network() -> Graph:
    """Residual blocks, one with a convolution around it, and a depthwise one, as in MobileNet v2."""
    return Graph(
        (
            Input("input", (), (8, 8, 3)),
            Conv2D("conv1", ("input",), 8, (3, 3), (1, 1), SAME3, bias=False),
            BatchNorm("norm1", ("conv1",)),
            Relu("relu1", ("norm1",)),
            Conv2D("block1/conv1", ("relu1",), 16, (3, 3), (2, 2), SAME3, bias=False),
            BatchNorm("block1/norm1", ("block1/conv1",)),
            Relu("block1/relu1", ("block1/norm1",)),
            Conv2D("block1/conv2", ("block1/relu1",), 16, (3, 3), (1, 1), SAME3, bias=False),
            BatchNorm("block1/norm2", ("block1/conv2",)),
            Conv2D("block1/shortcut", ("relu1",), 16, (1, 1), (2, 2), bias=False),
            BatchNorm("block1/shortcut_norm", ("block1/shortcut",)),
            Add("block1/add", ("block1/norm2", "block1/shortcut_norm")),
            Relu("block1/relu", ("block1/add",)),
            Conv2D("block2/expand", ("block1/relu",), 32, bias=False),
            BatchNorm("block2/expand_norm", ("block2/expand",)),
            ClippedRelu("block2/expand_relu", ("block2/expand_norm",)),
            DepthwiseConv2D("block2/depthwise", ("block2/expand_relu",), padding=SAME3, bias=False),
            BatchNorm("block2/depthwise_norm", ("block2/depthwise",)),
            ClippedRelu("block2/depthwise_relu", ("block2/depthwise_norm",)),
            Conv2D("block2/project", ("block2/depthwise_relu",), 16, bias=False),
            BatchNorm("block2/norm", ("block2/project",)),
            Add("block2/add", ("block1/relu", "block2/norm")),
            Conv2D("classifier", ("block2/add",), 4),
            GlobalAveragePool("average", ("classifier",)),
        )
    )


NETWORKS: Mapping[str, Graph] = {
    "fire with bypass": bypass_network(),
    "tangled": tangled_network(),
    "linear": linear_network(),
    "shared pools": shared_pool_network(),
    "positions": bypass_network(positions=3, classes=4, side=7),
}

MOBILE_NETWORKS: Mapping[str, Graph] = {
    "mobile": mobile_network(),
    "shared depthwise": shared_depthwise_network(),
    "residual": residual_network(),
}
"""Those with depthwise convolutions, clipped ReLUs, average pools and residual blocks."""


def double_tensors(graph: Graph, seed: int = 0) -> dict[str, Float64]:
    """Tensors in float64, none of them at a value where an error could hide."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in {**graph.parameters, **graph.state}.items():
        part = name.rsplit("/", 1)[1]
        values = rng.normal(size=shape)
        if part == "weight":
            values *= np.sqrt(2.0 / np.prod(shape[1:]))
        elif part in ("gamma", "variance"):
            values = 0.5 + np.abs(values)
        else:
            values *= 0.3
        found[name] = values
    return found


def single_tensors(graph: Graph, seed: int = 0) -> dict[str, Float32]:
    """The same in float32."""
    return {name: value.astype(np.float32) for name, value in double_tensors(graph, seed).items()}


def random_batch(graph: Graph, batch: int, seed: int = 0) -> tuple[Float64, Int64]:
    """Images and labels that fit the graph."""
    rng = np.random.default_rng(seed)
    output = graph.shapes[graph.logits]
    shape = (batch,) if len(output) == 1 else (batch, output[0])
    return rng.normal(size=(batch, *graph.input.shape)), rng.integers(0, graph.classes, shape)
