"""A network built node after node: the modules that our networks are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from emberfleet.core.graph import Graph
from emberfleet.core.nodes import (
    Add,
    BatchNorm,
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
    ceil_padding,
)


class Fire(NamedTuple):
    """Channels of one fire module: 1x1 squeeze, then 1x1 and 3x3 expand side by side."""

    squeeze: int
    expand1x1: int
    expand3x3: int


@dataclass
class Chain:
    """Nodes added one after another; `last` is the tensor that the next one reads."""

    nodes: list[Node]
    batch_norm: bool
    last: str = "input"
    sides: tuple[int, int] = (0, 0)
    shapes: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def start(height: int, width: int, channels: int, batch_norm: bool = False) -> Chain:
        """A network that has its image and nothing else."""
        image = Input("input", (), (height, width, channels))
        return Chain([image], batch_norm, "input", (height, width), {"input": channels})

    @property
    def channels(self) -> int:
        """Of the last tensor."""
        return self.shapes[self.last]

    def add(self, node: Node, channels: int | None = None) -> str:
        """Append a node; it has as many channels as the last one unless told."""
        self.nodes.append(node)
        self.shapes[node.name] = self.channels if channels is None else channels
        self.last = node.name
        return node.name

    def conv(
        self, name: str, channels: int, kernel: int, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> str:
        """A square convolution with the same padding on all sides."""
        pads: Padding = (padding, padding, padding, padding)
        made = Conv2D(name, (self.last,), channels, (kernel, kernel), (stride, stride), pads, bias)
        self.sides = (
            _slide(self.sides[0], kernel, stride, padding),
            _slide(self.sides[1], kernel, stride, padding),
        )
        return self.add(made, channels)

    def activate(self, norm: str, relu: str) -> str:
        """Batch norm, if this network has it, and a ReLU."""
        if self.batch_norm:
            self.add(BatchNorm(norm, (self.last,)))
        return self.add(Relu(relu, (self.last,)))

    def depthwise(self, name: str, stride: int = 1, bias: bool = True) -> str:
        """A depthwise convolution of 3 x 3 pixels that keeps the image's size but for its stride."""
        made = DepthwiseConv2D(name, (self.last,), 1, (3, 3), (stride, stride), (1, 1, 1, 1), bias)
        self.sides = (_slide(self.sides[0], 3, stride, 1), _slide(self.sides[1], 3, stride, 1))
        return self.add(made)

    def pool(self, name: str) -> str:
        """Max pooling, 3 x 3 with stride 2, that leaves out no pixel."""
        padding = ceil_padding(self.sides, (3, 3), (2, 2))
        self.sides = (-(-(self.sides[0] - 3) // 2) + 1, -(-(self.sides[1] - 3) // 2) + 1)
        return self.add(MaxPool(name, (self.last,), (3, 3), (2, 2), padding))

    def fire(self, name: str, fire: Fire, bypass: bool = False) -> str:
        """A fire module; `bypass` adds its input to its output where both have equally many channels."""
        entry, entry_channels = self.last, self.channels
        bias = not self.batch_norm
        self.conv(f"{name}/squeeze", fire.squeeze, 1, bias=bias)
        squeezed = self.activate(f"{name}/squeeze_norm", f"{name}/squeeze_relu")
        left = self.conv(f"{name}/expand1x1", fire.expand1x1, 1, bias=bias)
        self.last = squeezed
        right = self.conv(f"{name}/expand3x3", fire.expand3x3, 3, padding=1, bias=bias)
        self.add(Concat(f"{name}/concat", (left, right)), fire.expand1x1 + fire.expand3x3)
        out = self.activate(f"{name}/norm", f"{name}/relu")
        if bypass and self.channels == entry_channels:
            out = self.add(Add(f"{name}/add", (entry, out)))
        return out

    def residual(self, name: str, channels: int, stride: int = 1) -> str:
        """A residual block of two convolutions; where the shape changes, its input passes a convolution."""
        entry, entry_channels, sides = self.last, self.channels, self.sides
        self.conv(f"{name}/conv1", channels, 3, stride, 1, bias=False)
        self.activate(f"{name}/norm1", f"{name}/relu1")
        self.conv(f"{name}/conv2", channels, 3, 1, 1, bias=False)
        out = self.add(BatchNorm(f"{name}/norm2", (self.last,)))
        if stride != 1 or channels != entry_channels:
            self.last, self.sides = entry, sides
            self.conv(f"{name}/shortcut", channels, 1, stride, bias=False)
            entry = self.add(BatchNorm(f"{name}/shortcut_norm", (self.last,)))
        self.add(Add(f"{name}/add", (out, entry)), channels)
        return self.add(Relu(f"{name}/relu", (self.last,)))

    def classify(self, positions: int, classes: int) -> Graph:
        """End with one convolution to the classes, the mean over the image, and P rows of K where P > 1."""
        self.conv("head", positions * classes, 1)
        self.add(GlobalAveragePool("logits", (self.last,)))
        if positions > 1:
            self.add(Reshape("codes", (self.last,), (positions, classes)))
        return self.graph()

    def graph(self) -> Graph:
        """The network as built so far."""
        return Graph(tuple(self.nodes))


def widen(channels: int, width: float) -> int:
    """A number of channels times a width, rounded to a multiple of 8 that is not 0."""
    return max(8, round(channels * width / 8) * 8)


def _slide(side: int, kernel: int, stride: int, padding: int) -> int:
    return (side + 2 * padding - kernel) // stride + 1
