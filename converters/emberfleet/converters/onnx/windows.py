"""The window of a convolution or pool: kernel, stride and padding as ONNX states them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from emberfleet.converters.onnx.file import OnnxNode
from emberfleet.converters.onnx.view import View
from emberfleet.core.nodes import Padding

MAX_WINDOW: Final = 4096
"""Largest side of a kernel, stride or padding."""
WINDOW_ATTRIBUTES: Final = ("kernel_shape", "strides", "pads", "auto_pad", "dilations")


@dataclass(frozen=True, slots=True)
class Window:
    """A window sliding over an image.

    Attributes:
        kernel: Height and width.
        stride: Steps.
        padding: All of it: that of a Pad before the operator, of the operator, and the overhang.
        overhang: Rows and columns at the end that only rounding the size up adds.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding
    overhang: tuple[int, int] = (0, 0)


def read_window(node: OnnxNode, image: View, weights: tuple[int, int] | None = None) -> Window:
    """The window that the attributes describe, over an image ``(H, W, C)`` that a Pad may have widened.

    Args:
        node: Conv, MaxPool or AveragePool.
        image: What it reads.
        weights: KH and KW of a convolution.

    Raises:
        ConversionError: an attribute that is malformed, or beyond what is supported.
    """
    kernel = _pair(node, "kernel_shape", weights)
    if weights is not None and kernel != weights:
        raise node.error(f"kernel_shape is {kernel}, the weights are {weights}")
    if _pair(node, "dilations", (1, 1)) != (1, 1):
        raise node.error(f"dilations are {node.attributes['dilations']}, expected 1: no dilated windows")
    stride = _pair(node, "strides", (1, 1))
    before = image.padding
    padded = (image.shape[0] + before[0] + before[2], image.shape[1] + before[1] + before[3])
    own = _own_padding(node, padded, kernel, stride)
    overhang = (0, 0)
    if node.integer("ceil_mode", 0) and node.text("auto_pad", "NOTSET") == "NOTSET":
        overhang = (
            _overhang(padded[0], kernel[0], stride[0], own[0], own[2]),
            _overhang(padded[1], kernel[1], stride[1], own[1], own[3]),
        )
    padding = (
        before[0] + own[0],
        before[1] + own[1],
        before[2] + own[2] + overhang[0],
        before[3] + own[3] + overhang[1],
    )
    return Window(kernel, stride, padding, overhang)


def _pair(node: OnnxNode, name: str, default: tuple[int, int] | None) -> tuple[int, int]:
    values = node.integers(name, default)
    if values is None or len(values) != 2 or not all(1 <= value <= MAX_WINDOW for value in values):
        raise node.error(
            f"{name} is {values}, expected two numbers from 1 to {MAX_WINDOW}: only images in two dimensions"
        )
    return (values[0], values[1])


def _own_padding(
    node: OnnxNode, size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]
) -> Padding:
    mode = node.text("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = node.integers("pads", (0, 0, 0, 0))
        assert pads is not None
        if len(pads) != 4 or not all(0 <= value <= MAX_WINDOW for value in pads):
            raise node.error(f"pads are {pads}, expected four numbers from 0 to {MAX_WINDOW}")
        return (pads[0], pads[1], pads[2], pads[3])
    if mode == "VALID":
        return (0, 0, 0, 0)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise node.error(f"auto_pad is '{mode}', expected NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, stride, strict=True)]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    first, last = (small, large) if mode == "SAME_UPPER" else (large, small)
    return (first[0], first[1], last[0], last[1])


def _overhang(size: int, kernel: int, stride: int, begin: int, end: int) -> int:
    """What rounding up adds at the end; a window that would begin behind the image is left out."""
    positions = -(-(size + begin + end - kernel) // stride) + 1
    if (positions - 1) * stride >= size + begin:
        positions -= 1
    return max((positions - 1) * stride + kernel - size - begin - end, 0)
