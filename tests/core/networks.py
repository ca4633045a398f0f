"""Small graphs and tensors that several tests read."""

from __future__ import annotations

import numpy as np

from emberfleet.core.arrays import Float32
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
    Node,
    Relu,
    Reshape,
)
from emberfleet.core.quantization import quantization_points

SAME3 = (1, 1, 1, 1)


def fire(name: str, source: str, squeeze: int, expand: int) -> tuple[Node, ...]:
    """A fire module whose batch norm follows the concat."""
    return (
        Conv2D(f"{name}/squeeze", (source,), squeeze, bias=False),
        BatchNorm(f"{name}/squeeze/norm", (f"{name}/squeeze",)),
        Relu(f"{name}/squeeze/relu", (f"{name}/squeeze/norm",)),
        Conv2D(f"{name}/expand1x1", (f"{name}/squeeze/relu",), expand, bias=False),
        Conv2D(f"{name}/expand3x3", (f"{name}/squeeze/relu",), expand, (3, 3), (1, 1), SAME3, bias=False),
        Concat(f"{name}/concat", (f"{name}/expand1x1", f"{name}/expand3x3")),
        BatchNorm(f"{name}/norm", (f"{name}/concat",)),
        Relu(f"{name}/relu", (f"{name}/norm",)),
    )


def bypass_network(positions: int = 1, classes: int = 5, side: int = 9, channels: int = 2) -> Graph:
    """Convolution, pool, fire with a bypass around it, dropout, classifier, average."""
    head: tuple[Node, ...] = (
        Conv2D("classifier", ("dropout",), positions * classes),
        GlobalAveragePool("average", ("classifier",)),
    )
    if positions > 1:
        head = (*head, Reshape("matrix", ("average",), (positions, classes)))
    return Graph(
        (
            Input("input", (), (side, side, channels)),
            Conv2D("conv1", ("input",), 8, (3, 3), (1, 1), SAME3, bias=False),
            BatchNorm("conv1/norm", ("conv1",)),
            Relu("conv1/relu", ("conv1/norm",)),
            MaxPool("pool1", ("conv1/relu",), (3, 3), (2, 2), (0, 0, 1, 1)),
            *fire("fire2", "pool1", 4, 4),
            Add("bypass2", ("fire2/relu", "pool1")),
            Dropout("dropout", ("bypass2",), 0.25),
            *head,
        )
    )


def mobile_network() -> Graph:
    """Depthwise convolutions, clipped ReLUs, average pools, additions, batch norms that nothing takes in."""
    return Graph(
        (
            Input("input", (), (9, 7, 3)),
            Conv2D("stem", ("input",), 4, (3, 3), (1, 1), SAME3, bias=False),
            BatchNorm("stem/norm", ("stem",)),
            ClippedRelu("stem/relu", ("stem/norm",)),
            DepthwiseConv2D("block1/depthwise", ("stem/relu",), 2, (3, 3), (2, 1), (0, 1, 1, 1), bias=False),
            BatchNorm("block1/depthwise/norm", ("block1/depthwise",)),
            ClippedRelu("block1/depthwise/relu", ("block1/depthwise/norm",), 1.5),
            Conv2D("block1/pointwise", ("block1/depthwise/relu",), 8, bias=False),
            BatchNorm("block1/norm", ("block1/pointwise",)),
            Add("block1/add", ("block1/norm", "block1/depthwise/relu")),
            BatchNorm("block2/norm", ("block1/add",)),
            Relu("block2/relu", ("block2/norm",)),
            DepthwiseConv2D("block2/depthwise", ("block2/relu",), 1, (2, 3), (1, 2), (1, 0, 0, 2)),
            AveragePool("block2/pool", ("block1/add",), (2, 3), (1, 2), (1, 0, 0, 2)),
            Add("block2/add", ("block2/depthwise", "block2/pool")),
            ClippedRelu("block2/out", ("block2/add",), 3.0),
            AveragePool("block3/pool", ("block2/out",), (3, 2), (2, 1), (1, 1, 1, 0)),
            Relu("block3/relu", ("block3/pool",)),
            Conv2D("block3/conv", ("block3/pool",), 3),
            Concat("block3/concat", ("block3/relu", "block3/conv")),
            BatchNorm("block3/norm", ("block3/concat",)),
            DepthwiseConv2D("block3/pixel", ("block3/norm",), 1, (1, 1)),
            ClippedRelu("block3/out", ("block3/pixel",)),
            Conv2D("classifier", ("block3/out",), 5),
            GlobalAveragePool("average", ("classifier",)),
        )
    )


def random_tensors(graph: Graph, seed: int = 0) -> dict[str, Float32]:
    """Weights with a fan-in scale, positive variances, and a range of [-4, 4] at every point."""
    rng = np.random.default_rng(seed)
    found: dict[str, Float32] = {}
    for name, shape in {**graph.parameters, **graph.state}.items():
        part = name.rsplit("/", 1)[1]
        values = rng.normal(size=shape)
        if part == "weight":
            values *= np.sqrt(2.0 / np.prod(shape[1:]))
        elif part in ("gamma", "variance"):
            values = 0.5 + np.abs(values)
        found[name] = values.astype(np.float32)
    for name in set(quantization_points(graph).values()):
        found[name] = np.array([-4, 4], np.float32)
    found["input/range"] = np.array([0, 1], np.float32)
    return found
