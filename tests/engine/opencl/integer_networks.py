"""int8 networks built by hand, whose outputs show every code of one operation."""

from __future__ import annotations

import numpy as np

from emberfleet.core.arrays import Int32
from emberfleet.core.integer import (
    IntegerAveragePool,
    IntegerConv,
    IntegerDepthwiseConv,
    IntegerMaxPool,
    IntegerNetwork,
    IntegerOp,
    IntegerReshape,
    IntegerTensor,
    IntegerWindowAveragePool,
)
from emberfleet.core.nodes import Padding, Shape
from emberfleet.core.quantization import QuantParams

HALF = 1 << 30
"""The multiplier of one half: products of it fall on ties."""


def showing(
    op: IntegerOp, given: Shape, made: Shape, points: tuple[int, int], scale: float
) -> IntegerNetwork:
    """A network of one operation from "x" to "y", reshaped to one vector, so that all codes are seen."""
    tensors = {
        "x": IntegerTensor(given, QuantParams(scale, points[0])),
        "y": IntegerTensor(made, QuantParams(scale, points[1])),
        "codes": IntegerTensor((int(np.prod(made)),), QuantParams(scale, points[1])),
    }
    return IntegerNetwork("x", "codes", tensors, (op, IntegerReshape("codes", "y")))


def window_size(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], pad: Padding
) -> Shape:
    """Height and width of what a window makes of an image."""
    top, left, bottom, right = pad
    height, width = size[0] + top + bottom, size[1] + left + right
    return (height - kernel[0]) // stride[0] + 1, (width - kernel[1]) // stride[1] + 1


def conv_network(
    size: tuple[int, int],
    channels: tuple[int, int],
    kernel: tuple[int, int] = (1, 1),
    stride: tuple[int, int] = (1, 1),
    pad: Padding = (0, 0, 0, 0),
    points: tuple[int, int] = (-3, 5),
    shifts: tuple[int, int] = (-12, -5),
    relu: bool = False,
    seed: int = 0,
) -> IntegerNetwork:
    """One convolution with random weights, biases, multipliers and shifts from a range."""
    rng = np.random.default_rng(seed)
    inputs, outputs = channels
    multiplier: Int32 = rng.integers(HALF, 1 << 31, outputs).astype(np.int32)
    multiplier[rng.random(outputs) < 0.3] = HALF
    reach = 1000 * inputs * kernel[0] * kernel[1]
    op = IntegerConv(
        output="y",
        input="x",
        weights=rng.integers(-127, 128, (outputs, *kernel, inputs)).astype(np.int8),
        weight_scales=np.ones(outputs, np.float32),
        bias=rng.integers(-reach, reach, outputs).astype(np.int32),
        multiplier=multiplier,
        shift=rng.integers(shifts[0], shifts[1] + 1, outputs).astype(np.int32),
        stride=stride,
        padding=pad,
        relu=relu,
    )
    made = (*window_size(size, kernel, stride, pad), outputs)
    return showing(op, (*size, inputs), made, points, 0.1)


def depthwise_network(
    size: tuple[int, int],
    channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    pad: Padding = (0, 0, 0, 0),
    times: int = 1,
    shifts: tuple[int, int] = (-12, -5),
    relu: bool = False,
) -> IntegerNetwork:
    """One depthwise convolution with random weights, biases, multipliers and shifts from a range."""
    rng = np.random.default_rng(0)
    outputs = channels * times
    multiplier: Int32 = rng.integers(HALF, 1 << 31, outputs).astype(np.int32)
    multiplier[rng.random(outputs) < 0.3] = HALF
    reach = 1000 * kernel[0] * kernel[1]
    op = IntegerDepthwiseConv(
        output="y",
        input="x",
        depth_multiplier=times,
        weights=rng.integers(-127, 128, (outputs, *kernel, 1)).astype(np.int8),
        weight_scales=np.ones(outputs, np.float32),
        bias=rng.integers(-reach, reach, outputs).astype(np.int32),
        multiplier=multiplier,
        shift=rng.integers(shifts[0], shifts[1] + 1, outputs).astype(np.int32),
        stride=stride,
        padding=pad,
        relu=relu,
    )
    made = (*window_size(size, kernel, stride, pad), outputs)
    return showing(op, (*size, channels), made, (-3, 5), 0.1)


def identity_network(shape: Shape, params: QuantParams) -> IntegerNetwork:
    """A 1x1 convolution that gives each code as it is: the network's input, as a convolution reads it."""
    count = shape[-1]
    op = IntegerConv(
        output="y",
        input="x",
        weights=(64 * np.eye(count, dtype=np.int8)).reshape(count, 1, 1, count),
        weight_scales=np.ones(count, np.float32),
        bias=np.zeros(count, np.int32),
        multiplier=np.full(count, HALF, np.int32),
        shift=np.full(count, -5, np.int32),
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        relu=False,
    )
    return showing(op, shape, shape, (params.zero_point, params.zero_point), params.scale)


def max_pool_network(
    size: tuple[int, int], channels: int, kernel: tuple[int, int], stride: tuple[int, int], pad: Padding
) -> IntegerNetwork:
    """One max pool."""
    made = (*window_size(size, kernel, stride, pad), channels)
    return showing(IntegerMaxPool("y", "x", kernel, stride, pad), (*size, channels), made, (7, 7), 0.1)


def average_pool_network(size: tuple[int, int], channels: int) -> IntegerNetwork:
    """One average pool."""
    return showing(IntegerAveragePool("y", "x"), (*size, channels), (channels,), (7, 7), 0.1)


def window_average_network(
    size: tuple[int, int], channels: int, kernel: tuple[int, int], stride: tuple[int, int], pad: Padding
) -> IntegerNetwork:
    """One average pool of windows."""
    made = (*window_size(size, kernel, stride, pad), channels)
    return showing(
        IntegerWindowAveragePool("y", "x", kernel, stride, pad), (*size, channels), made, (7, 7), 0.1
    )
