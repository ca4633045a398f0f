"""The networks that Emberfleet trains: SqueezeNet as published, a small family, two classics.

Every function returns a `Graph` whose output is logits: the loss applies the softmax, and a
device takes the largest. Weights come from `train.initialisation`.

In a fire module both expand branches end in one concat, and batch norm and ReLU come after it.
As both work per channel this is the same function as one of each per branch, and both branches
share one quantization range, so an int8 concat copies nothing and rescales nothing.

Source: Iandola et al. 2016, arXiv:1602.07360; SqueezeNet 1.1 from the authors' repository.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from emberfleet.core.errors import ConfigError
from emberfleet.core.graph import (
    Add,
    BatchNorm,
    Concat,
    Conv2D,
    Dropout,
    GlobalAveragePool,
    Graph,
    Input,
    MaxPool,
    Node,
    Padding,
    Relu,
    Reshape,
    ceil_padding,
)

SMALL_SIZES = range(28, 97)
"""Image sides, in pixels, that the small family is made for."""


class Fire(NamedTuple):
    """Channels of one fire module: 1x1 squeeze, then 1x1 and 3x3 expand side by side."""

    squeeze: int
    expand1x1: int
    expand3x3: int


SQUEEZENET_1_1: tuple[tuple[Fire, ...], ...] = (
    (Fire(16, 64, 64), Fire(16, 64, 64)),
    (Fire(32, 128, 128), Fire(32, 128, 128)),
    (Fire(48, 192, 192), Fire(48, 192, 192), Fire(64, 256, 256), Fire(64, 256, 256)),
)
"""The fires of SqueezeNet 1.1, a pool before each group."""


@dataclass
class _Chain:
    """Nodes added one after another; `last` is the tensor that the next one reads."""

    nodes: list[Node]
    batch_norm: bool
    last: str = "input"
    sides: tuple[int, int] = (0, 0)
    shapes: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def start(height: int, width: int, channels: int, batch_norm: bool = False) -> _Chain:
        image = Input("input", (), (height, width, channels))
        return _Chain([image], batch_norm, "input", (height, width), {"input": channels})

    @property
    def channels(self) -> int:
        return self.shapes[self.last]

    def add(self, node: Node, channels: int | None = None) -> str:
        self.nodes.append(node)
        self.shapes[node.name] = self.channels if channels is None else channels
        self.last = node.name
        return node.name

    def conv(
        self, name: str, channels: int, kernel: int, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> str:
        pads: Padding = (padding, padding, padding, padding)
        made = Conv2D(name, (self.last,), channels, (kernel, kernel), (stride, stride), pads, bias)
        self.sides = (
            _slide(self.sides[0], kernel, stride, padding),
            _slide(self.sides[1], kernel, stride, padding),
        )
        return self.add(made, channels)

    def activate(self, norm: str, relu: str) -> str:
        if self.batch_norm:
            self.add(BatchNorm(norm, (self.last,)))
        return self.add(Relu(relu, (self.last,)))

    def pool(self, name: str) -> str:
        padding = ceil_padding(self.sides, (3, 3), (2, 2))
        self.sides = (-(-(self.sides[0] - 3) // 2) + 1, -(-(self.sides[1] - 3) // 2) + 1)
        return self.add(MaxPool(name, (self.last,), (3, 3), (2, 2), padding))

    def fire(self, name: str, fire: Fire, bypass: bool = False) -> str:
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

    def graph(self) -> Graph:
        return Graph(tuple(self.nodes))


def squeezenet_1_0(classes: int, size: int = 224) -> Graph:
    """SqueezeNet 1.0 as published: 1,248,424 parameters for 1,000 classes."""
    early = (Fire(16, 64, 64), Fire(16, 64, 64), Fire(32, 128, 128))
    middle = (Fire(32, 128, 128), Fire(48, 192, 192), Fire(48, 192, 192), Fire(64, 256, 256))
    return _squeezenet(classes, size, 96, 7, (early, middle, (Fire(64, 256, 256),)))


def squeezenet_1_1(classes: int, size: int = 224) -> Graph:
    """SqueezeNet 1.1 as published: 1,235,496 parameters for 1,000 classes, 2.4 times less work than 1.0."""
    return _squeezenet(classes, size, 64, 3, SQUEEZENET_1_1)


def squeezenet_32(classes: int = 10, size: int = 32) -> Graph:
    """SqueezeNet 1.1 with batch norm for images of 32 x 32, whose size the first convolution keeps."""
    return _squeezenet(
        classes, size, 64, 3, SQUEEZENET_1_1, stride=1, padding=1, batch_norm=True, dropout=0.0
    )


def small_squeezenet(
    size: int = 28,
    channels: int = 1,
    classes: int = 10,
    width: float = 1.0,
    batch_norm: bool = True,
    bypass: bool = False,
    dropout: float = 0.0,
    positions: int = 1,
) -> Graph:
    """A SqueezeNet for small square images: five fire modules, 64,970 parameters at width 1.

    Args:
        size: Side of the image in pixels, 28 to 96; from 48 on the first convolution halves it.
        channels: 1 for grey, 3 for colour.
        classes: Classes at each position.
        width: Multiplies every number of channels, rounded to multiples of 8.
        batch_norm: Batch norm before each ReLU; without it the convolutions have a bias.
        bypass: Adds each fire's input to its output where both have equally many channels.
        dropout: Share of values dropped before the last convolution.
        positions: P classes per image (the characters of a code); the output is then ``(P, K)``.
    """
    if size not in SMALL_SIZES:
        raise ConfigError(
            f"small: image size is {size}, expected {SMALL_SIZES.start} to {SMALL_SIZES.stop - 1} pixels; "
            "resize the images or choose squeezenet_1_1"
        )
    if width <= 0:
        raise ConfigError(f"small: width is {width}, expected a number above 0")

    def wide(count: int) -> int:
        return max(8, round(count * width / 8) * 8)

    def fire(squeeze: int, expand: int) -> Fire:
        return Fire(wide(squeeze), wide(expand), wide(expand))

    chain = _Chain.start(size, size, channels, batch_norm)
    chain.conv("conv1", wide(32), 3, 2 if size >= 48 else 1, 1, bias=not batch_norm)
    chain.activate("norm1", "relu1")
    chain.pool("pool1")
    chain.fire("fire2", fire(16, 32))
    chain.fire("fire3", fire(16, 32), bypass)
    chain.pool("pool3")
    chain.fire("fire4", fire(24, 48))
    chain.fire("fire5", fire(24, 48), bypass)
    chain.fire("fire6", fire(32, 64))
    if dropout > 0:
        chain.add(Dropout("dropout", (chain.last,), dropout))
    chain.conv("head", positions * classes, 1)
    chain.add(GlobalAveragePool("logits", (chain.last,)))
    if positions > 1:
        chain.add(Reshape("codes", (chain.last,), (positions, classes)))
    return chain.graph()


def linear(size: int = 28, channels: int = 1, classes: int = 10) -> Graph:
    """Softmax regression: one weight per pixel and class."""
    chain = _Chain.start(size, size, channels)
    chain.conv("head", classes, size)
    chain.add(Reshape("logits", (chain.last,), (classes,)))
    return chain.graph()


def two_layer(size: int = 28, channels: int = 1, classes: int = 10, hidden: int = 64) -> Graph:
    """One hidden layer over the whole image, ReLU, and the classes."""
    chain = _Chain.start(size, size, channels)
    chain.conv("hidden", hidden, size)
    chain.add(Relu("relu", (chain.last,)))
    chain.conv("head", classes, 1)
    chain.add(Reshape("logits", (chain.last,), (classes,)))
    return chain.graph()


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """What a user can set about a network; `build` says which of it a model heeds."""

    size: int
    channels: int
    classes: int
    positions: int = 1
    width: float = 1.0
    batch_norm: bool = True
    bypass: bool = False
    dropout: float = 0.0


def build_model(name: str, choice: ModelChoice) -> Graph:
    """The network called `name`.

    Raises:
        ConfigError: an unknown name, or a choice that this model cannot follow.
    """
    if name not in MODELS:
        raise ConfigError(f"model '{name}' is unknown; choose one of: {', '.join(sorted(MODELS))}")
    return MODELS[name](choice)


def _build_small(choice: ModelChoice) -> Graph:
    return small_squeezenet(
        choice.size, choice.channels, choice.classes, choice.width, choice.batch_norm,
        choice.bypass, choice.dropout, choice.positions,
    )  # fmt: skip


def _build_published(name: str, make: Callable[[int, int], Graph]) -> Callable[[ModelChoice], Graph]:
    def build(choice: ModelChoice) -> Graph:
        _one_position(name, choice)
        if choice.channels != 3:
            raise ConfigError(
                f"model '{name}' takes colour images; for {choice.channels} channel choose 'small'"
            )
        return make(choice.classes, choice.size)

    return build


def _build_flat(name: str, make: Callable[[int, int, int], Graph]) -> Callable[[ModelChoice], Graph]:
    def build(choice: ModelChoice) -> Graph:
        _one_position(name, choice)
        return make(choice.size, choice.channels, choice.classes)

    return build


def _one_position(name: str, choice: ModelChoice) -> None:
    if choice.positions != 1:
        raise ConfigError(
            f"model '{name}' gives one class per image, the data has {choice.positions}; choose 'small'"
        )


MODELS: Mapping[str, Callable[[ModelChoice], Graph]] = {
    "small": _build_small,
    "squeezenet_1_0": _build_published("squeezenet_1_0", squeezenet_1_0),
    "squeezenet_1_1": _build_published("squeezenet_1_1", squeezenet_1_1),
    "linear": _build_flat("linear", linear),
    "two_layer": _build_flat("two_layer", two_layer),
}
"""Every network by the name the command line uses."""


def _squeezenet(
    classes: int,
    size: int,
    stem: int,
    kernel: int,
    groups: tuple[tuple[Fire, ...], ...],
    stride: int = 2,
    padding: int = 0,
    batch_norm: bool = False,
    dropout: float = 0.5,
) -> Graph:
    """A published SqueezeNet: a stem, fires with a pool before each group, dropout, conv10."""
    chain = _Chain.start(size, size, 3, batch_norm)
    chain.conv("conv1", stem, kernel, stride, padding, bias=not batch_norm)
    chain.activate("norm1", "relu1")
    number = 1
    for group in groups:
        chain.pool(f"pool{number}")
        for fire in group:
            number += 1
            chain.fire(f"fire{number}", fire)
    if dropout > 0:
        chain.add(Dropout("dropout9", (chain.last,), dropout))
    chain.conv("conv10", classes, 1)
    chain.add(Relu("relu10", (chain.last,)))
    chain.add(GlobalAveragePool("pool10", (chain.last,)))
    return chain.graph()


def _slide(side: int, kernel: int, stride: int, padding: int) -> int:
    return (side + 2 * padding - kernel) // stride + 1
