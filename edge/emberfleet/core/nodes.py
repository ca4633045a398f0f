"""The operations of a network as values: named nodes in NHWC that infer their shapes.

A node holds no weights; it says which tensors it needs. Shapes leave out the batch: an image is
``(H, W, C)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from emberfleet.core.errors import ShapeError

Shape: TypeAlias = tuple[int, ...]
Padding: TypeAlias = tuple[int, int, int, int]
"""Pixels added at the top, left, bottom and right."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operation: its name is also the name of the tensor it produces."""

    kind: ClassVar[str] = ""
    arity: ClassVar[int | None] = 1
    """How many inputs the operation takes; None for two or more."""

    name: str
    inputs: tuple[str, ...]

    def infer(self, shapes: tuple[Shape, ...]) -> Shape:
        """The output shape for the given input shapes; raises `ShapeError` when they do not fit."""
        return shapes[0]

    def parameters(self, shapes: tuple[Shape, ...]) -> dict[str, Shape]:
        """Trainable tensors by full name, e.g. ``fire2/squeeze/weight``."""
        return {}

    def state(self, shapes: tuple[Shape, ...]) -> dict[str, Shape]:
        """Tensors that training updates without a gradient, e.g. running statistics."""
        return {}


@dataclass(frozen=True, slots=True)
class Input(Node):
    """The image, already preprocessed: ``(H, W, C)`` float32."""

    kind: ClassVar[str] = "input"
    arity: ClassVar[int | None] = 0
    shape: Shape = (1, 1, 1)

    def infer(self, shapes: tuple[Shape, ...]) -> Shape:
        if len(self.shape) != 3:
            raise ShapeError(f"input '{self.name}': shape is {self.shape}, expected (H, W, C)")
        return self.shape


@dataclass(frozen=True, slots=True)
class Conv2D(Node):
    """``y[n,h,w,o] = b[o] + sum over i,j,c of x[n, h*s+i-top, w*s+j-left, c] * weight[o,i,j,c]``.

    Padding reads as zero. A fully connected layer is a convolution whose kernel is the image.
    """

    kind: ClassVar[str] = "conv2d"
    channels: int = 1
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    bias: bool = True

    def infer(self, shapes: tuple[Shape, ...]) -> Shape:
        h, w = _slide(self, shapes[0], self.kernel, self.stride, self.padding)
        return (h, w, self.channels)

    def parameters(self, shapes: tuple[Shape, ...]) -> dict[str, Shape]:
        weight = (self.channels, *self.kernel, shapes[0][2])
        found: dict[str, Shape] = {f"{self.name}/weight": weight}
        if self.bias:
            found[f"{self.name}/bias"] = (self.channels,)
        return found


@dataclass(frozen=True, slots=True)
class DepthwiseConv2D(Node):
    """``y[n,h,w,o] = b[o] + sum over i,j of x[n, h*s+i-top, w*s+j-left, o // multiplier] * weight[o,i,j,0]``.

    Each output channel reads one input channel, each input channel feeds `multiplier` outputs that
    lie side by side. Padding reads as zero.
    """

    kind: ClassVar[str] = "depthwise_conv2d"
    multiplier: int = 1
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    bias: bool = True

    def infer(self, shapes: tuple[Shape, ...]) -> Shape:
        h, w = _slide(self, shapes[0], self.kernel, self.stride, self.padding)
        if self.multiplier < 1:
            raise ShapeError(
                f"{self.kind} '{self.name}': multiplier is {self.multiplier}, expected 1 or more"
            )
        return (h, w, shapes[0][2] * self.multiplier)

    def parameters(self, shapes: tuple[Shape, ...]) -> dict[str, Shape]:
        channels = shapes[0][2] * self.multiplier
        found: dict[str, Shape] = {f"{self.name}/weight": (channels, *self.kernel, 1)}
        if self.bias:
            found[f"{self.name}/bias"] = (channels,)
        return found


@dataclass(frozen=True, slots=True)
class BatchNorm(Node):
    """``y = gamma * (x - mean) / sqrt(variance + epsilon) + beta``, per channel.

    In training, mean and variance are those of the batch (over n, h, w; variance divided by the
    count), and the running ones move by ``running = momentum * running + (1 - momentum) * batch``
    (the running variance takes the unbiased one, count - 1). Source: Ioffe & Szegedy 2015.
    """

    kind: ClassVar[str] = "batch_norm"
    epsilon: float = 1e-5
    momentum: float = 0.9

    def infer(self, shapes: tuple[Shape, ...]) -> Shape:
        _image(self, shapes[0])
        return shapes[0]

    def parameters(self, shapes: tuple[Shape, ...]) -> dict[str, Shape]:
        c = shapes[0][-1:]
        return {f"{self.name}/gamma": c, f"{self.name}/beta": c}

    def state(self, shapes: tuple[Shape, ...]) -> dict[str, Shape]:
        c = shapes[0][-1:]
        return {f"{self.name}/mean": c, f"{self.name}/variance": c}


@dataclass(frozen=True, slots=True)
class Relu(Node):
    """``y = max(x, 0)``; the gradient at 0 is 0."""

    kind: ClassVar[str] = "relu"


@dataclass(frozen=True, slots=True)
class ClippedRelu(Node):
    """``y = min(max(x, 0), ceiling)``; the gradient is 0 where x <= 0 or x >= ceiling."""

    kind: ClassVar[str] = "clipped_relu"
    ceiling: float = 6.0

    def infer(self, shapes: tuple[Shape, ...]) -> Shape:
        if not 0.0 < self.ceiling < math.inf:
            raise ShapeError(
                f"clipped_relu '{self.name}': ceiling is {self.ceiling}, expected a positive finite number"
            )
        return shapes[0]


@dataclass(frozen=True, slots=True)
class MaxPool(Node):
    """Largest value in each window; padding never wins. The first maximum takes the gradient."""

    kind: ClassVar[str] = "max_pool"
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (2, 2)
    padding: Padding = (0, 0, 0, 0)

    def infer(self, shapes: tuple[Shape, ...]) -> Shape:
        return _pool(self, shapes[0], self.kernel, self.stride, self.padding)


@dataclass(frozen=True, slots=True)
class AveragePool(Node):
    """Mean of the pixels in each window; padding is not counted among them."""

    kind: ClassVar[str] = "average_pool"
    kernel: tuple[int, int] = (2, 2)
    stride: tuple[int, int] = (2, 2)
    padding: Padding = (0, 0, 0, 0)

    def infer(self, shapes: tuple[Shape, ...]) -> Shape:
        return _pool(self, shapes[0], self.kernel, self.stride, self.padding)


@dataclass(frozen=True, slots=True)
class GlobalAveragePool(Node):
    """Mean over h and w: ``(H, W, C)`` to ``(C,)``."""

    kind: ClassVar[str] = "global_average_pool"

    def infer(self, shapes: tuple[Shape, ...]) -> Shape:
        return _image(self, shapes[0])[2:]


@dataclass(frozen=True, slots=True)
class Concat(Node):
    """Images joined along the channels, in the order of `inputs`."""

    kind: ClassVar[str] = "concat"
    arity: ClassVar[int | None] = None

    def infer(self, shapes: tuple[Shape, ...]) -> Shape:
        h, w, _ = _image(self, shapes[0])
        if any(len(shape) != 3 or shape[:2] != (h, w) for shape in shapes):
            raise ShapeError(f"concat '{self.name}': images of one size expected, got {shapes}")
        return (h, w, sum(shape[2] for shape in shapes))


@dataclass(frozen=True, slots=True)
class Add(Node):
    """Element-wise sum of two tensors of one shape: the bypass around a fire module."""

    kind: ClassVar[str] = "add"
    arity: ClassVar[int | None] = 2

    def infer(self, shapes: tuple[Shape, ...]) -> Shape:
        if shapes[0] != shapes[1]:
            raise ShapeError(f"add '{self.name}': equal shapes expected, got {shapes}")
        return shapes[0]


@dataclass(frozen=True, slots=True)
class Dropout(Node):
    """In training each value is 0 with probability `rate`, else divided by ``1 - rate``."""

    kind: ClassVar[str] = "dropout"
    rate: float = 0.5

    def infer(self, shapes: tuple[Shape, ...]) -> Shape:
        if not 0.0 <= self.rate < 1.0:
            raise ShapeError(f"dropout '{self.name}': rate is {self.rate}, expected 0 <= rate < 1")
        return shapes[0]


@dataclass(frozen=True, slots=True)
class Reshape(Node):
    """The same values in the same order under another shape, e.g. ``(P*K,)`` to ``(P, K)``."""

    kind: ClassVar[str] = "reshape"
    shape: Shape = ()

    def infer(self, shapes: tuple[Shape, ...]) -> Shape:
        if math.prod(self.shape) != math.prod(shapes[0]):
            raise ShapeError(f"reshape '{self.name}': {shapes[0]} does not fill {self.shape}")
        return self.shape


@dataclass(frozen=True, slots=True)
class Softmax(Node):
    """``exp(x) / sum(exp(x))`` over the last axis. Only as the last node; training leaves it out."""

    kind: ClassVar[str] = "softmax"


KINDS: Mapping[str, type[Node]] = {
    cls.kind: cls
    for cls in (
        Input, Conv2D, DepthwiseConv2D, BatchNorm, Relu, ClippedRelu, MaxPool, AveragePool,
        GlobalAveragePool, Concat, Add, Dropout, Reshape, Softmax,
    )
}  # fmt: skip


def same_padding(size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]) -> Padding:
    """The padding of TensorFlow's SAME: ``ceil(size / stride)`` outputs, the odd pixel at the end."""
    total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, stride, strict=True)]
    return (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)


def ceil_padding(size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]) -> Padding:
    """The padding of Caffe's and torch's ``ceil_mode`` pools: no pixel of the image is left out."""
    extra = [
        max((-(-max(n - k, 0) // s)) * s + k - n, 0) for n, k, s in zip(size, kernel, stride, strict=True)
    ]
    return (0, 0, extra[0], extra[1])


def _image(node: Node, shape: Shape) -> Shape:
    if len(shape) != 3:
        raise ShapeError(f"{node.kind} '{node.name}': input is {shape}, expected an image (H, W, C)")
    return shape


def _slide(
    node: Node, shape: Shape, kernel: tuple[int, int], stride: tuple[int, int], padding: Padding
) -> tuple[int, int]:
    """Output height and width of a window sliding over a padded image."""
    h, w, _ = _image(node, shape)
    if min(*kernel, *stride) < 1 or min(padding) < 0:
        raise ShapeError(
            f"{node.kind} '{node.name}': kernel {kernel} and stride {stride} must be positive, "
            f"padding {padding} not negative"
        )
    top, left, bottom, right = padding
    out = ((h + top + bottom - kernel[0]) // stride[0] + 1, (w + left + right - kernel[1]) // stride[1] + 1)
    if min(out) < 1:
        raise ShapeError(
            f"{node.kind} '{node.name}': a window of {kernel} does not fit into the image {shape} "
            f"padded by {padding}"
        )
    return out


def _pool(
    node: Node, shape: Shape, kernel: tuple[int, int], stride: tuple[int, int], padding: Padding
) -> Shape:
    """Output shape of a pool, none of whose windows may lie in the padding alone."""
    h, w = _slide(node, shape, kernel, stride, padding)
    top, left, bottom, right = padding
    if max(top, bottom) >= kernel[0] or max(left, right) >= kernel[1]:
        raise ShapeError(
            f"{node.kind} '{node.name}': padding {padding} reaches the kernel {kernel}; "
            "a window would hold no pixel"
        )
    return (h, w, shape[2])
