"""The networks whose training is timed, described once for us and for a peer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from emberfleet.core.graph import Graph
from emberfleet.core.nodes import (
    BatchNorm,
    Concat,
    Conv2D,
    GlobalAveragePool,
    Input,
    MaxPool,
    Node,
    Relu,
    ceil_padding,
)


@dataclass(frozen=True, slots=True)
class SqueezeNetShape:
    """A SqueezeNet: stem, then groups of fires with a pool before each, and a classifier.

    Attributes:
        side: Of the square image.
        channels: Of the image.
        stem: Channels of the first 3x3 convolution.
        stride: Of the first convolution.
        groups: Fires as ``(squeeze, expand)``, each branch of the expand being so wide.
        classes: Of the classifier.
        padding: Of the first convolution, on each side.
        batch_norm: Before each ReLU; without it the convolutions have a bias.
        head_relu: Whether the classifier's convolution is followed by a ReLU, as published.
    """

    side: int
    channels: int
    stem: int
    stride: int
    groups: tuple[tuple[tuple[int, int], ...], ...]
    classes: int = 10
    padding: int = 1
    batch_norm: bool = True
    head_relu: bool = False


_EARLY = (((16, 64), (16, 64)), ((32, 128), (32, 128)))
_LATE = ((48, 192), (48, 192), (64, 256), (64, 256))

MEDIUM = SqueezeNetShape(32, 3, 64, 2, (*_EARLY, ((48, 192), (48, 192))))
"""The "344k" net of the design: 341,962 parameters, 344,256 with its classifier padded to 16 classes."""
SQ32 = SqueezeNetShape(32, 3, 64, 1, (*_EARLY, _LATE), head_relu=True)
"""SqueezeNet 1.1 for images of 32 x 32, with batch norm."""
SQ32_FOLDED = replace(SQ32, batch_norm=False)
"""The same with batch norm folded away, as it predicts."""
SQ224 = SqueezeNetShape(224, 3, 64, 2, (*_EARLY, _LATE), 1000, padding=0, batch_norm=False, head_relu=True)
"""SqueezeNet 1.1 as published: 1,235,496 parameters."""


def build(shape: SqueezeNetShape) -> Graph:
    """The network as our graph."""
    nodes: list[Node] = [Input("input", (), (shape.side, shape.side, shape.channels))]

    def add(node: Node) -> str:
        nodes.append(node)
        return node.name

    def activate(name: str, source: str) -> str:
        if shape.batch_norm:
            source = add(BatchNorm(f"{name}_norm", (source,)))
        return add(Relu(f"{name}_relu", (source,)))

    def conv(name: str, source: str, channels: int, kernel: int, bias: bool = not shape.batch_norm) -> str:
        pad = kernel // 2
        return add(Conv2D(name, (source,), channels, (kernel, kernel), (1, 1), (pad,) * 4, bias))

    side = (shape.side + 2 * shape.padding - 3) // shape.stride + 1
    stride, padding = (shape.stride, shape.stride), (shape.padding,) * 4
    stem = Conv2D("conv1", ("input",), shape.stem, (3, 3), stride, padding, not shape.batch_norm)
    last = activate("conv1", add(stem))
    for g, group in enumerate(shape.groups):
        last = add(MaxPool(f"pool{g}", (last,), (3, 3), (2, 2), ceil_padding((side, side), (3, 3), (2, 2))))
        side = -(-(side - 3) // 2) + 1
        for f, (squeeze, expand) in enumerate(group):
            name = f"fire{g}_{f}"
            narrow = activate(f"{name}/squeeze", conv(f"{name}/squeeze", last, squeeze, 1))
            branches = (
                conv(f"{name}/expand1x1", narrow, expand, 1),
                conv(f"{name}/expand3x3", narrow, expand, 3),
            )
            last = activate(name, add(Concat(f"{name}/concat", branches)))
    last = conv("head", last, shape.classes, 1, bias=True)
    if shape.head_relu:
        last = add(Relu("head_relu", (last,)))
    add(GlobalAveragePool("logits", (last,)))
    return Graph(tuple(nodes))


def count_parameters(graph: Graph) -> int:
    """How many numbers learn."""
    return sum(math.prod(shape) for shape in graph.parameters.values())
