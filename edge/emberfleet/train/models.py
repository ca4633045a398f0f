"""The networks that Emberfleet trains: SqueezeNets, MobileNets, ResNets, two classics.

Every function returns a `Graph` whose output is logits: the loss applies the softmax, and a
device takes the largest. Weights come from `train.initialisation`.

In a fire module both expand branches end in one concat, and batch norm and ReLU come after it.
As both work per channel this is the same function as one of each per branch, and both branches
share one quantization range, so an int8 concat copies nothing and rescales nothing.

Source: Iandola et al. 2016, arXiv:1602.07360; SqueezeNet 1.1 from the authors' repository.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from emberfleet.core.errors import ConfigError
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Dropout, GlobalAveragePool, Relu, Reshape
from emberfleet.train.chain import Chain, Fire, widen

SMALL_SIZES = range(28, 97)
"""Image sides, in pixels, that the small family is made for."""

MOBILENET_SIZE = 8
"""Smallest image side, in pixels, for a MobileNet."""
SMALLEST_SIDE = 4
"""Side of the image, in pixels, below which a MobileNet does not go."""


SQUEEZENET_1_1: tuple[tuple[Fire, ...], ...] = (
    (Fire(16, 64, 64), Fire(16, 64, 64)),
    (Fire(32, 128, 128), Fire(32, 128, 128)),
    (Fire(48, 192, 192), Fire(48, 192, 192), Fire(64, 256, 256), Fire(64, 256, 256)),
)
"""The fires of SqueezeNet 1.1, a pool before each group."""


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
    _check_small_size("small", size)
    _check_width("small", width)

    def fire(squeeze: int, expand: int) -> Fire:
        return Fire(widen(squeeze, width), widen(expand, width), widen(expand, width))

    chain = Chain.start(size, size, channels, batch_norm)
    chain.conv("conv1", widen(32, width), 3, 2 if size >= 48 else 1, 1, bias=not batch_norm)
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
    return chain.classify(positions, classes)


MOBILENET: tuple[tuple[int, int], ...] = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
"""Channels and stride of MobileNet's blocks (Howard et al. 2017, arXiv:1704.04861, table 1)."""


def mobilenet(
    size: int = 224, channels: int = 3, classes: int = 1000, width: float = 1.0, positions: int = 1
) -> Graph:
    """MobileNet v1: 4,231,976 parameters for 1,000 classes, batch norm's scales and offsets among them.

    Images too small for all five strides of 2 keep their size at the first ones, so that the last
    blocks still see at least 4 x 4 pixels.

    Args:
        size: Side of the image in pixels, 8 or more.
        channels: 1 for grey, 3 for colour.
        classes: Classes at each position.
        width: Multiplies every number of channels, rounded to multiples of 8.
        positions: P classes per image; the output is then ``(P, K)``.
    """
    if size < MOBILENET_SIZE:
        raise ConfigError(f"mobilenet: image size is {size}, expected {MOBILENET_SIZE} pixels or more")
    _check_width("mobilenet", width)
    halvings = 1 + sum(stride == 2 for _, stride in MOBILENET)
    spared = sum(size < SMALLEST_SIDE << count for count in range(1, halvings + 1))
    chain = Chain.start(size, size, channels, batch_norm=True)

    def stride(wanted: int) -> int:
        nonlocal spared
        if wanted == 2 and spared:
            spared -= 1
            return 1
        return wanted

    chain.conv("conv1", widen(32, width), 3, stride(2), 1, bias=False)
    chain.activate("norm1", "relu1")
    for number, (wide, wanted) in enumerate(MOBILENET, start=2):
        name = f"block{number}"
        chain.depthwise(f"{name}/depthwise", stride(wanted), bias=False)
        chain.activate(f"{name}/depthwise_norm", f"{name}/depthwise_relu")
        chain.conv(f"{name}/pointwise", widen(wide, width), 1, bias=False)
        chain.activate(f"{name}/norm", f"{name}/relu")
    return chain.classify(positions, classes)


def resnet(
    depth: int = 14,
    size: int = 32,
    channels: int = 3,
    classes: int = 10,
    width: float = 1.0,
    positions: int = 1,
) -> Graph:
    """A ResNet for small square images, of 16, 32 and 64 channels; ResNet-20 has 272,474 parameters.

    Where a block halves the image, a convolution of one pixel with batch norm brings its input to the
    shape of its output.

    Args:
        depth: Layers with weights on the longest way: 6n + 2 for n blocks in each of the three groups.
        size: Side of the image in pixels, 28 to 96; from 48 on the first convolution halves it.
        channels: 1 for grey, 3 for colour.
        classes: Classes at each position.
        width: Multiplies every number of channels, rounded to multiples of 8.
        positions: P classes per image; the output is then ``(P, K)``.

    Source:
        He et al. 2015, arXiv:1512.03385, section 4.2, with its shortcut B.
    """
    if depth < 8 or depth % 6 != 2:
        raise ConfigError(f"resnet: depth is {depth}, expected 8, 14, 20 or another 6n + 2")
    _check_small_size("resnet", size)
    _check_width("resnet", width)
    chain = Chain.start(size, size, channels, batch_norm=True)
    chain.conv("conv1", widen(16, width), 3, 2 if size >= 48 else 1, 1, bias=False)
    chain.activate("norm1", "relu1")
    for group, wide in enumerate((16, 32, 64), start=1):
        for block in range(1, (depth - 2) // 6 + 1):
            stride = 2 if group > 1 and block == 1 else 1
            chain.residual(f"block{group}_{block}", widen(wide, width), stride)
    return chain.classify(positions, classes)


def linear(size: int = 28, channels: int = 1, classes: int = 10) -> Graph:
    """Softmax regression: one weight per pixel and class."""
    chain = Chain.start(size, size, channels)
    chain.conv("head", classes, size)
    chain.add(Reshape("logits", (chain.last,), (classes,)))
    return chain.graph()


def two_layer(size: int = 28, channels: int = 1, classes: int = 10, hidden: int = 64) -> Graph:
    """One hidden layer over the whole image, ReLU, and the classes."""
    chain = Chain.start(size, size, channels)
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


def _check_small_size(name: str, size: int) -> None:
    if size not in SMALL_SIZES:
        raise ConfigError(
            f"{name}: image size is {size}, expected {SMALL_SIZES.start} to {SMALL_SIZES.stop - 1} pixels; "
            "resize the images or choose squeezenet_1_1"
        )


def _check_width(name: str, width: float) -> None:
    if width <= 0:
        raise ConfigError(f"{name}: width is {width}, expected a number above 0")


def _build_mobilenet(choice: ModelChoice) -> Graph:
    return mobilenet(choice.size, choice.channels, choice.classes, choice.width, choice.positions)


def _build_resnet(depth: int) -> Callable[[ModelChoice], Graph]:
    def build(choice: ModelChoice) -> Graph:
        return resnet(depth, choice.size, choice.channels, choice.classes, choice.width, choice.positions)

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
    "mobilenet": _build_mobilenet,
    "resnet_8": _build_resnet(8),
    "resnet_14": _build_resnet(14),
    "resnet_20": _build_resnet(20),
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
    chain = Chain.start(size, size, 3, batch_norm)
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
