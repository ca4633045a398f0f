"""What a recorded convolution computes, by numpy, over storages as they lie in the arena."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np

from emberfleet.core.arrays import Float32
from emberfleet.engine.opencl.conv2d import Epilogue, ForwardWork, Weight, WeightWork
from emberfleet.engine.opencl.layout import Place, View
from emberfleet.engine.opencl.program import FLOAT_BYTES

ConvolutionWork: TypeAlias = ForwardWork | WeightWork


def taps_of(work: ConvolutionWork) -> list[tuple[int, int]]:
    """Places of the window, row by row."""
    down, across = work.window.kernel
    return [(i, j) for i in range(down) for j in range(across)]


def twin_of(work: ConvolutionWork, number: int) -> ConvolutionWork:
    """The same work on storages of its own, with a number in their names."""
    if isinstance(work, WeightWork):
        return replace(work, x=_like(work.x, f"x#{number}"), dy=_like(work.dy, f"dy#{number}"))
    floats = weight_floats(work) - work.weight.padded_outputs
    return replace(
        work,
        x=_like(work.x, f"x#{number}"),
        y=_like(work.y, f"y#{number}"),
        weight=Weight("weights", 0, work.weight.channels, work.weight.padded_outputs),
        epilogue=Epilogue(
            ("weights", floats) if work.epilogue.bias else None, work.epilogue.relu, work.epilogue.accumulate
        ),
    )


def _like(view: View, name: str) -> View:
    return replace(view, images=replace(view.images, name=name, offset=-1))


def weight_floats(work: ForwardWork) -> int:
    """Of the weights and a bias behind them."""
    return (len(taps_of(work)) * work.weight.channels + 1) * work.weight.padded_outputs


def sums_of(work: WeightWork) -> int:
    """Floats of one partial sum of the gradient."""
    return len(taps_of(work)) * work.x.channels * work.dy.padded_channels


def seen(flat: Float32, place: Place, y: View, channels: int) -> Float32:
    """The pixels ``(N, H, W, C)`` of a storage that a kernel visits, as a view of it."""
    shape = (y.batch, y.height, y.width, channels)
    strides = tuple(FLOAT_BYTES * step for step in (place.image, place.row, place.pixel, 1))
    return np.lib.stride_tricks.as_strided(flat[place.start :], shape, strides)


def _rows(flat: Float32, work: ConvolutionWork, y: View, channels: int) -> Float32:
    """What the window reads at every output pixel: ``(N * H * W, KH * KW * C)``."""
    window = work.window
    taps = [
        seen(flat, work.x.window(window.up - i, window.left - j, window.stride), y, channels)
        for i, j in taps_of(work)
    ]
    return np.concatenate(taps, axis=3).reshape(-1, len(taps) * channels)


def forward_by_numpy(work: ForwardWork, x: Float32, weights: Float32, image: int) -> Float32:
    """The convolution of one image by numpy, ``(H, W, O padded)``."""
    channels, outputs = work.weight.channels, work.weight.padded_outputs
    one = replace(work.y, images=replace(work.y.images, batch=1))
    rows = _rows(x[image * work.x.images.padded_image :], work, one, channels)
    matrix = weights.reshape(-1, outputs)
    y = rows @ matrix[:-1]
    if work.epilogue.bias:
        y += matrix[-1]
    return np.maximum(y, 0.0) if work.epilogue.relu else y


def weight_gradient_by_numpy(work: WeightWork, x: Float32, dy: Float32) -> Float32:
    """The gradient by numpy, ``(KH * KW * C, O padded)``."""
    padded = work.dy.padded_channels
    gradient = seen(dy, work.dy.place(), work.dy, padded).reshape(-1, padded)
    return _rows(x, work, work.dy, work.x.channels).T @ gradient
