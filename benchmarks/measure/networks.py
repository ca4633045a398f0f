"""The networks whose training is timed, described once for us and for a peer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from emberfleet.core.graph import (
    BatchNorm,
    Concat,
    Conv2D,
    GlobalAveragePool,
    Graph,
    Input,
    MaxPool,
    Node,
    Relu,
    ceil_padding,
)


@dataclass(frozen=True, slots=True)
class SqueezeNetShape:
    """A SqueezeNet with batch norm: stem, pool, groups of fires with a pool between them, classifier.

    Attributes:
        side: Of the square image.
        channels: Of the image.
        stem: Channels of the first 3x3 convolution.
        stride: Of the first convolution.
        groups: Fires as ``(squeeze, expand)``, each branch of the expand being so wide.
        classes: Of the classifier.
    """

    side: int
    channels: int
    stem: int
    stride: int
    groups: tuple[tuple[tuple[int, int], ...], ...]
    classes: int = 10


SMALL = SqueezeNetShape(28, 1, 32, 1, (((16, 32), (16, 32)), ((24, 48), (24, 48), (32, 64))))
"""The small net of the demo, as `train.models.small_squeezenet` makes it."""
MEDIUM = SqueezeNetShape(32, 3, 64, 2, (((16, 64), (16, 64)), ((32, 128), (32, 128)), ((48, 192), (48, 192))))
"""The "344k" net of the design: 341,962 parameters, 344,256 with its classifier padded to 16 classes."""


def build(shape: SqueezeNetShape) -> Graph:
    """The network as our graph."""
    nodes: list[Node] = [Input("input", (), (shape.side, shape.side, shape.channels))]

    def add(node: Node) -> str:
        nodes.append(node)
        return node.name

    def activate(name: str, source: str) -> str:
        return add(Relu(f"{name}_relu", (add(BatchNorm(f"{name}_norm", (source,))),)))

    def conv(name: str, source: str, channels: int, kernel: int, stride: int = 1, bias: bool = False) -> str:
        pad = kernel // 2
        node = Conv2D(name, (source,), channels, (kernel, kernel), (stride, stride), (pad,) * 4, bias)
        return add(node)

    side = (shape.side - 1) // shape.stride + 1
    last = activate("conv1", conv("conv1", "input", shape.stem, 3, shape.stride))
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
    head = conv("head", last, shape.classes, 1, bias=True)
    add(GlobalAveragePool("logits", (head,)))
    return Graph(tuple(nodes))


def count_parameters(graph: Graph) -> int:
    """How many numbers learn."""
    return sum(math.prod(shape) for shape in graph.parameters.values())
