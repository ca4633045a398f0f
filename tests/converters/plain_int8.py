"""The int8 network computed the plain way: int64 sums over windows, one image batch at a time."""

from __future__ import annotations

import numpy as np

from emberfleet.core.arrays import Array, Int8, Int64
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
from emberfleet.core.nodes import Padding
from emberfleet.core.quantization import multiply_by_quantized_multiplier, requantize


def run_plain(network: IntegerNetwork, q: Int8) -> Int8:
    """From ``(N, H, W, C)`` int8 images to int8 logits."""
    return run_plain_tensors(network, q)[network.output]


def run_plain_tensors(network: IntegerNetwork, q: Int8) -> dict[str, Int8]:
    """Every tensor by its name, the images among them."""
    values = {network.input: q}
    for op in network.ops:
        values[op.output] = _compute(network, op, [values[name] for name in op.inputs])
    return values


def _compute(network: IntegerNetwork, op: IntegerOp, given: list[Int8]) -> Int8:
    zeros = [network.tensors[name].params.zero_point for name in op.inputs]
    out = network.tensors[op.output]
    zero = out.params.zero_point
    if isinstance(op, IntegerConv):
        kernel = (op.weights.shape[1], op.weights.shape[2])
        windows = _windows(given[0].astype(np.int64) - zeros[0], kernel, op.stride, op.padding, 0)
        acc = np.einsum("nhwcij,oijc->nhwo", windows, op.weights.astype(np.int64)) + op.bias
        return requantize(acc, op.multiplier, op.shift, zero, *output_limits(op, out.params))
    if isinstance(op, IntegerDepthwiseConv):
        kernel = (op.weights.shape[1], op.weights.shape[2])
        repeated = np.repeat(given[0].astype(np.int64) - zeros[0], op.depth_multiplier, axis=3)
        windows = _windows(repeated, kernel, op.stride, op.padding, 0)
        acc = np.einsum("nhwoij,oij->nhwo", windows, op.weights[..., 0].astype(np.int64)) + op.bias
        return requantize(acc, op.multiplier, op.shift, zero, *output_limits(op, out.params))
    if isinstance(op, IntegerMaxPool):
        windows = _windows(given[0].astype(np.int64), op.kernel, op.stride, op.padding, -128)
        largest: Int8 = windows.max(axis=(4, 5)).astype(np.int8)
        return largest
    if isinstance(op, IntegerAveragePool):
        total = given[0].astype(np.int64).sum(axis=(1, 2))
        return _mean(total, np.array(given[0].shape[1] * given[0].shape[2]))
    if isinstance(op, IntegerWindowAveragePool):
        total = _windows(given[0].astype(np.int64), op.kernel, op.stride, op.padding, 0).sum(axis=(4, 5))
        inside = np.ones((1, *given[0].shape[1:3], 1), np.int64)
        return _mean(total, _windows(inside, op.kernel, op.stride, op.padding, 0).sum(axis=(4, 5)))
    if isinstance(op, IntegerConcat):
        return np.concatenate(given, axis=3)
    if isinstance(op, IntegerAdd):
        raised = [
            multiply_by_quantized_multiplier(
                (x.astype(np.int64) - z) << ADD_LEFT_SHIFT, np.array(m), np.array(s)
            )
            for x, z, m, s in zip(given, zeros, op.multipliers[:2], op.shifts[:2], strict=True)
        ]
        total = multiply_by_quantized_multiplier(
            raised[0] + raised[1], np.array(op.multipliers[2]), np.array(op.shifts[2])
        )
        return np.clip(total + zero, *output_limits(op, out.params)).astype(np.int8)
    if isinstance(op, IntegerRelu):
        scaled = multiply_by_quantized_multiplier(
            given[0].astype(np.int64) - zeros[0], np.array(op.multiplier), np.array(op.shift)
        )
        return np.clip(scaled + zero, *output_limits(op, out.params)).astype(np.int8)
    assert isinstance(op, IntegerReshape)
    return given[0].reshape(len(given[0]), *out.shape)


def _mean(total: Int64, count: Int64) -> Int8:
    """Halves away from zero."""
    mean: Int8 = (np.sign(total) * ((np.abs(total) + count // 2) // count)).astype(np.int8)
    return mean


def _windows(
    x: Int64, kernel: tuple[int, int], stride: tuple[int, int], padding: Padding, fill: int
) -> Array:
    """``(N, H', W', C, KH, KW)``."""
    top, left, bottom, right = padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))
    return windows[:, :: stride[0], :: stride[1]]
