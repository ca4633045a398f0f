"""Convolution as matrix products: rows gathered from the image, one GEMM per pass.

``y[n,h,w,o] = b[o] + sum over i,j,c of x[n, h*s+i-top, w*s+j-left, c] * weight[o,i,j,c]``

Weights are ``(O, KH, KW, C)``, images ``(N, H, W, C)``. With *rows* the ``(N*H'*W', KH*KW*C)``
matrix of the windows: ``y = rows @ W.T``, ``dw = dy.T @ rows``; a 1x1 convolution's rows are the
image itself. ``dx`` is ``dy @ W``, each value added to the pixel that the gather took it from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np

from emberfleet.core.arrays import Array, Real
from emberfleet.core.nodes import AveragePool, Conv2D, DepthwiseConv2D, MaxPool, Padding

ArrayT = TypeVar("ArrayT", bound=Array)


@dataclass(frozen=True, slots=True)
class Window:
    """How a kernel slides: sizes in pixels, padding at the top, left, bottom, right."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: Padding = (0, 0, 0, 0)

    @staticmethod
    def of(node: Conv2D | DepthwiseConv2D | MaxPool | AveragePool) -> Window:
        """The window of a graph's node."""
        return Window(node.kernel, node.stride, node.padding)

    @property
    def pointwise(self) -> bool:
        """Whether each output pixel reads just the input pixel at its place."""
        return self == Window()

    def padded(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Shape of an ``(N, H, W, C)`` image with its padding around it."""
        n, h, w, c = shape
        top, left, bottom, right = self.padding
        return (n, h + top + bottom, w + left + right, c)

    def output(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """``(N, H', W')`` for an ``(N, H, W, C)`` image."""
        n, h, w, _ = self.padded(shape)
        return (n, (h - self.kernel[0]) // self.stride[0] + 1, (w - self.kernel[1]) // self.stride[1] + 1)

    def rows(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Shape of the gathered rows, ``(N*H'*W', KH*KW*C)``."""
        return (math.prod(self.output(shape)), self.kernel[0] * self.kernel[1] * shape[3])

    def taps(self, size: tuple[int, int]) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
        """For each place in the kernel, row by row: the input pixels it meets, and at which outputs.

        Padding is left out: outputs whose tap falls on it are not in the slices, which may be empty.
        """
        down = _axis_taps(size[0], self.kernel[0], self.stride[0], self.padding[0], self.padding[2])
        across = _axis_taps(size[1], self.kernel[1], self.stride[1], self.padding[1], self.padding[3])
        return [((i[0], j[0]), (i[1], j[1])) for i in down for j in across]


def _axis_taps(size: int, kernel: int, stride: int, before: int, after: int) -> list[tuple[slice, slice]]:
    outputs = (size + before + after - kernel) // stride + 1
    found = []
    for tap in range(kernel):
        first = max(0, -(-(before - tap) // stride))
        stop = min(outputs, (size - 1 + before - tap) // stride + 1)
        count = max(0, stop - first)
        start = max(0, first * stride + tap - before)
        end = start + (count - 1) * stride + 1 if count else start
        found.append((slice(start, end, stride), slice(first, first + count)))
    return found


class RowGather:
    """Copies the windows of an image into rows, between arrays that are fixed once."""

    def __init__(
        self, x: Array, window: Window, padded: Array | None, rows: Array, padding_value: int = 0
    ) -> None:
        _n, h, w, c = x.shape
        top, left, _bottom, _right = window.padding
        self._rows = rows.reshape(*window.output(x.shape), *window.kernel, c)
        self._x = x
        self._padding_value = padding_value
        self._inside: Array | None = None
        self._border: tuple[Array, ...] = ()
        if any(window.padding):
            assert padded is not None
            self._inside = padded[:, top : top + h, left : left + w]
            self._border = tuple(
                edge
                for edge in (
                    padded[:, :top],
                    padded[:, top + h :],
                    padded[:, top : top + h, :left],
                    padded[:, top : top + h, left + w :],
                )
                if edge.size
            )
            x = padded
        per_n, per_h, per_w, per_c = x.strides
        strides = (per_n, per_h * window.stride[0], per_w * window.stride[1], per_h, per_w, per_c)
        self._windows = np.lib.stride_tricks.as_strided(x, self._rows.shape, strides, writeable=False)

    def run(self) -> None:
        """Fill the rows from the image as it is now."""
        if self._inside is not None:
            for edge in self._border:
                edge.fill(self._padding_value)
            np.copyto(self._inside, self._x)
        np.copyto(self._rows, self._windows)


def gather_rows(x: ArrayT, window: Window, padding_value: int = 0) -> ArrayT:
    """The windows of an image as a new ``(N*H'*W', KH*KW*C)`` matrix."""
    rows = np.empty(window.rows(x.shape), x.dtype)
    padded = np.empty(window.padded(x.shape), x.dtype) if any(window.padding) else None
    RowGather(x, window, padded, rows, padding_value).run()
    return cast("ArrayT", rows)


def scatter_rows(rows: Real, window: Window, dx: Real) -> None:
    """Add rows to the pixels that `RowGather` would have taken them from."""
    _, h, w, c = dx.shape
    shares = rows.reshape(*window.output(dx.shape), -1, c)
    for place, (source, target) in enumerate(window.taps((h, w))):
        view = dx[:, source[0], source[1]]
        view += shares[:, target[0], target[1], place]


def conv2d_forward(x: Real, weight: Real, bias: Real | None, window: Window) -> Real:
    """Convolution of ``(N, H, W, C)`` images with ``(O, KH, KW, C)`` weights: ``(N, H', W', O)``."""
    y: Real = gather_rows(x, window) @ weight.reshape(len(weight), -1).T
    if bias is not None:
        y += bias
    return y.reshape(*window.output(x.shape), len(weight))


def conv2d_backward_weight(x: Real, dy: Real, window: Window) -> Real:
    """``dw[o,i,j,c] = sum over n,h,w of dy[n,h,w,o] * x[n, h*s+i-top, w*s+j-left, c]``, a new array."""
    o = dy.shape[-1]
    dw: Real = dy.reshape(-1, o).T @ gather_rows(x, window)
    return dw.reshape(o, *window.kernel, x.shape[-1])


def conv2d_backward_bias(dy: Real) -> Real:
    """``db[o] = sum over n,h,w of dy[n,h,w,o]``."""
    total: Real = dy.reshape(-1, dy.shape[-1]).sum(axis=0)
    return total


def conv2d_backward_input(dy: Real, weight: Real, window: Window, shape: tuple[int, ...]) -> Real:
    """``dx[n,p,q,c] = sum over i,j,o of dy[n,h,w,o] * weight[o,i,j,c]`` where ``p = h*s+i-top``.

    Args:
        dy: ``(N, H', W', O)`` gradient of the output.
        weight: ``(O, KH, KW, C)``.
        window: How the kernel slid in the forward pass.
        shape: ``(N, H, W, C)`` of the input.
    """
    rows = dy.reshape(-1, len(weight)) @ weight.reshape(len(weight), -1)
    dx = np.zeros(shape, dy.dtype)
    scatter_rows(rows, window, dx)
    return dx
