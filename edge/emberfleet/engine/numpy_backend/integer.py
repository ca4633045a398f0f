"""The int8 reference: an `IntegerNetwork` run with exact sums, bit for bit as TensorFlow Lite's reference.

Products of int8 are summed by a floating-point GEMM where every partial sum is an integer that the
type holds exactly: float32 up to ``K * 128 * 127 < 2**24``, float64 beyond. Sums run over the raw
values; the input's zero point is taken out afterwards by ``zero_point * sum of weights``, and
padding holds the zero point, so it adds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emberfleet.core.arrays import Float32, Int8, Int32, Int64, Real
from emberfleet.core.integer import (
    ADD_LEFT_SHIFT,
    IntegerAdd,
    IntegerAveragePool,
    IntegerConcat,
    IntegerConv,
    IntegerDepthwiseConv,
    IntegerMaxPool,
    IntegerNetwork,
    IntegerOp,
    IntegerRelu,
    IntegerReshape,
    IntegerWindowAveragePool,
    output_limits,
)
from emberfleet.core.quantization import multiply_by_quantized_multiplier, requantize
from emberfleet.engine.batches import check_codes
from emberfleet.engine.numpy_backend.conv import Window, gather_rows
from emberfleet.engine.numpy_backend.depthwise import depthwise_conv2d
from emberfleet.engine.numpy_backend.pool import pixels_inside
from emberfleet.engine.numpy_backend.threads import Threads

EXACT_FLOAT32 = 1 << 24
"""Integers below this are exact in float32."""


@dataclass(frozen=True, slots=True)
class _Kernel:
    """A convolution's weights as the GEMM takes them, and the bias with the zero point taken out."""

    matrix: Real
    """``(KH*KW*C, O)``, float32 or float64."""
    bias: Int64
    """``(O,)``."""


class NumpyIntegerPredictor:
    """See `engine.backend.IntegerPredictor`."""

    def __init__(self, network: IntegerNetwork, batch: int, threads: Threads) -> None:
        self.network, self.batch = network, batch
        self._threads = threads
        self._kernels = {
            op.output: _prepare(op, network.tensors[op.input].params.zero_point)
            for op in network.ops
            if isinstance(op, IntegerConv)
        }
        self._last_use = {name: place for place, op in enumerate(network.ops) for name in op.inputs}

    def run(self, x: Float32) -> Float32:
        """See `engine.backend.IntegerPredictor.run`."""
        q = self.run_integer(self.network.input_tensor.params.quantize(x))
        return self.network.output_tensor.params.dequantize(q)

    def run_integer(self, q: Int8) -> Int8:
        """See `engine.backend.IntegerPredictor.run_integer`.

        Raises:
            ShapeError: `q` is not ``(n, H, W, C)`` int8.
        """
        check_codes(self.network.input_tensor.shape, q)
        out = np.empty((len(q), *self.network.output_tensor.shape), np.int8)
        with self._threads.bounded():
            for start in range(0, len(q), self.batch):
                part = q[start : start + self.batch]
                out[start : start + len(part)] = self._run(part)
        return out

    def _run(self, q: Int8) -> Int8:
        values = {self.network.input: q}
        for place, op in enumerate(self.network.ops):
            values[op.output] = self._compute(op, [values[name] for name in op.inputs])
            for name in set(op.inputs):
                if self._last_use[name] == place and name != self.network.output:
                    del values[name]
        return values[self.network.output]

    def _compute(self, op: IntegerOp, inputs: list[Int8]) -> Int8:
        tensors = self.network.tensors
        out = tensors[op.output]
        x = inputs[0]
        match op:
            case IntegerConv():
                low, high = output_limits(op, out.params)
                acc = convolve(op, self._kernels[op.output], x, tensors[op.input].params.zero_point)
                return requantize(acc, op.multiplier, op.shift, out.params.zero_point, low, high)
            case IntegerDepthwiseConv():
                low, high = output_limits(op, out.params)
                acc = convolve_depthwise(op, x, tensors[op.input].params.zero_point)
                return requantize(acc, op.multiplier, op.shift, out.params.zero_point, low, high)
            case IntegerMaxPool():
                return max_pool(x, Window(op.kernel, op.stride, op.padding))
            case IntegerAveragePool():
                return average_pool(x)
            case IntegerWindowAveragePool():
                return window_average_pool(x, Window(op.kernel, op.stride, op.padding))
            case IntegerConcat():
                return np.concatenate(inputs, axis=-1)
            case IntegerAdd():
                points = (tensors[op.inputs[0]].params.zero_point, tensors[op.inputs[1]].params.zero_point)
                return add(
                    op, inputs[0], inputs[1], points, out.params.zero_point, output_limits(op, out.params)
                )
            case IntegerRelu():
                centred = x.astype(np.int32) - tensors[op.input].params.zero_point
                m, s = np.array(op.multiplier, np.int32), np.array(op.shift, np.int32)
                return requantize(centred, m, s, out.params.zero_point, *output_limits(op, out.params))
            case IntegerReshape():
                return x.reshape(len(x), *out.shape)


def _prepare(op: IntegerConv, zero_point: int) -> _Kernel:
    flat = op.weights.reshape(len(op.weights), -1)
    kind = np.float32 if flat.shape[1] * 128 * 127 < EXACT_FLOAT32 else np.float64
    bias = op.bias.astype(np.int64) - zero_point * flat.sum(axis=1, dtype=np.int64)
    return _Kernel(np.ascontiguousarray(flat.T, dtype=kind), bias)


def convolve(op: IntegerConv, kernel: _Kernel, x: Int8, zero_point: int) -> Int32:
    """``bias[o] + sum of (x - zero_point) * weights[o]`` in int32, exactly: ``(N, H', W', O)``."""
    kh, kw = op.weights.shape[1:3]
    window = Window((kh, kw), op.stride, op.padding)
    rows = x.reshape(-1, x.shape[-1]) if window.pointwise else gather_rows(x, window, zero_point)
    sums = rows.astype(kernel.matrix.dtype) @ kernel.matrix
    acc = sums.astype(np.int64) + kernel.bias
    return acc.astype(np.int32).reshape(*window.output(x.shape), len(op.weights))


def convolve_depthwise(op: IntegerDepthwiseConv, x: Int8, zero_point: int) -> Int32:
    """``bias[o] + sum of (x - zero_point) * weights[o]`` in int32, exactly: ``(N, H', W', O)``.

    The products of at most 255 x 127 are summed in float32 while it holds every sum, else in float64.
    """
    kernel = (op.weights.shape[1], op.weights.shape[2])
    exact = kernel[0] * kernel[1] * 255 * 127 < EXACT_FLOAT32
    kind = np.float32 if exact else np.float64
    centred: Real = (x.astype(np.int16) - np.int16(zero_point)).astype(kind)
    weights: Real = op.weights.astype(kind)
    sums = depthwise_conv2d(centred, weights, Window(kernel, op.stride, op.padding))
    return (sums.astype(np.int64) + op.bias).astype(np.int32)


def max_pool(x: Int8, window: Window) -> Int8:
    """Largest value of each window; padding never wins."""
    out = np.full((*window.output(x.shape), x.shape[-1]), -128, np.int8)
    for source, target in window.taps((x.shape[1], x.shape[2])):
        place = out[:, target[0], target[1]]
        np.maximum(place, x[:, source[0], source[1]], out=place)
    return out


def window_average_pool(x: Int8, window: Window) -> Int8:
    """Mean of the pixels in each window, halves away from zero; padding does not count."""
    total = np.zeros((*window.output(x.shape), x.shape[-1]), np.int32)
    for source, target in window.taps((x.shape[1], x.shape[2])):
        total[:, target[0], target[1]] += x[:, source[0], source[1]]
    counts = pixels_inside(window, x.shape[1:]).astype(np.int32)
    mean: Int32 = np.sign(total) * ((np.abs(total) + counts // 2) // counts)
    return mean.astype(np.int8)


def average_pool(x: Int8) -> Int8:
    """Mean over h and w, halves away from zero: ``(N, H, W, C)`` to ``(N, C)``."""
    count = x.shape[1] * x.shape[2]
    total = x.sum(axis=(1, 2), dtype=np.int32)
    mean: Int32 = np.sign(total) * ((np.abs(total) + count // 2) // count)
    return np.clip(mean, -128, 127).astype(np.int8)


def add(
    op: IntegerAdd, a: Int8, b: Int8, zero_points: tuple[int, int], zero_point: int, limits: tuple[int, int]
) -> Int8:
    """Sum of two tensors on scales of their own; see `core.integer.IntegerAdd`."""
    total = np.zeros(a.shape, np.int64)
    for q, point, m, s in zip((a, b), zero_points, op.multipliers[:2], op.shifts[:2], strict=True):
        raised = (q.astype(np.int64) - point) << ADD_LEFT_SHIFT
        total += multiply_by_quantized_multiplier(raised, np.array(m), np.array(s))
    scaled = multiply_by_quantized_multiplier(total, np.array(op.multipliers[2]), np.array(op.shifts[2]))
    return np.clip(scaled + zero_point, *limits).astype(np.int8)
