"""The quantization rule, stated once: real numbers as 8-bit integers, and back.

An activation is ``real = scale * (q - zero_point)`` with q in [-128, 127] (affine, one scale
per tensor); a weight is ``real = scale[o] * q`` with q in [-127, 127] (symmetric, one scale per
output channel); a bias is an int32 in units of input scale x weight scale. Sums of products are
int32 and are brought down to int8 by a fixed-point multiplication (`requantize`) whose rounding
is that of the TensorFlow Lite reference kernels, so that numpy, OpenCL and a .tflite agree bit for bit.

Sources: Jacob et al. 2018, arXiv:1712.05877, sections 2 and 3; TensorFlow Lite 8-bit
quantization specification; gemmlowp fixedpoint.h for the two rounding primitives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from emberfleet.core.arrays import Array, Float32, Float64, Int8, Int32, Int64, Real
from emberfleet.core.errors import QuantError
from emberfleet.core.folding import folds
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import (
    Add,
    BatchNorm,
    ClippedRelu,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    Input,
    Node,
    Relu,
    Softmax,
)

QMIN, QMAX = -128, 127
WEIGHT_MAX = 127
NARROWEST = 1e-6
"""A range up to this width holds nothing but zero."""

Activation: TypeAlias = Relu | ClippedRelu
_RESCALING = (Conv2D, DepthwiseConv2D, Add, BatchNorm, Relu, ClippedRelu)
"""Operations whose output has a scale of its own."""


@dataclass(frozen=True, slots=True)
class QuantParams:
    """``real = scale * (q - zero_point)`` for one activation tensor.

    Raises:
        QuantError: the scale is not positive and finite, or zero is not among the 256 values.
    """

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0.0):
            raise QuantError(f"scale is {self.scale}, expected a positive finite number")
        if not QMIN <= self.zero_point <= QMAX:
            raise QuantError(f"zero point is {self.zero_point}, expected {QMIN} to {QMAX}")

    @staticmethod
    def from_range(low: float, high: float, ceiling: float = math.inf) -> QuantParams:
        """Spread 256 steps over a range, widened to hold zero; zero becomes exactly one of them.

        The range is held to at most `ceiling`. One that holds nothing but zero, as that of an activation
        that is never on, is taken as [0, 1]: steps of next to nothing would be so far from the steps
        around them that XNNPACK refuses the network. The scale is rounded to float32, as every format
        stores it.
        """
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise QuantError(f"range is [{low}, {high}], expected two finite numbers in order")
        low, high = min(low, 0.0), max(min(high, ceiling), 0.0)
        if high - low <= NARROWEST:
            low, high = 0.0, min(1.0, ceiling)
        scale = float(np.float32((high - low) / (QMAX - QMIN)))
        return QuantParams(scale, int(np.clip(np.rint(QMIN - low / scale), QMIN, QMAX)))

    @property
    def low(self) -> float:
        """The real number that -128 stands for."""
        return self.scale * (QMIN - self.zero_point)

    @property
    def high(self) -> float:
        """The real number that 127 stands for."""
        return self.scale * (QMAX - self.zero_point)

    def quantize(self, x: Real) -> Int8:
        """``clip(rint(x * (1 / scale)) + zero_point)``; ties round to even; all in float32."""
        inverse = np.float32(1.0) / np.float32(self.scale)
        q: Float32 = np.atleast_1d(np.asarray(x, np.float32) * inverse)
        np.rint(q, out=q)
        q += np.float32(self.zero_point)
        np.clip(q, QMIN, QMAX, out=q)
        return q.astype(np.int8).reshape(np.shape(x))

    def dequantize(self, q: Int8) -> Float32:
        """Back to real numbers, in float32."""
        return (q.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


def fake_quantize(x: Real, params: QuantParams, out: Real | None = None) -> Real:
    """Round to the values that 8 bits can hold, staying in floating point: training sees what inference does.

    Same arithmetic as `QuantParams.quantize` then `dequantize`, in the precision of `x`.
    """
    kind = x.dtype.type
    y = np.multiply(x, kind(np.float32(1.0) / np.float32(params.scale)), out=out)
    np.rint(y, out=y)
    np.clip(y, kind(QMIN - params.zero_point), kind(QMAX - params.zero_point), out=y)
    return np.multiply(y, kind(params.scale), out=y)


def weight_scales(weights: Real) -> Float32:
    """One symmetric scale per output channel: ``max |w| / 127``.

    Args:
        weights: ``(O, KH, KW, C)``.

    Returns:
        ``(O,)`` float32, positive; a channel of zeros gets the scale 1.
    """
    peak = np.abs(weights.reshape(len(weights), -1)).max(axis=1).astype(np.float32)
    # A scale below the normal numbers would have no finite inverse.
    scales = np.maximum(peak / np.float32(WEIGHT_MAX), np.finfo(np.float32).tiny)
    return np.where(peak > 0, scales, np.float32(1.0)).astype(np.float32)


def quantize_weights(weights: Float32, scales: Float32) -> Int8:
    """``clip(rint(w * (1 / scale[o])), -127, 127)`` for ``(O, KH, KW, C)`` weights."""
    inverse = (np.float32(1.0) / scales).reshape(-1, *[1] * (weights.ndim - 1))
    return np.clip(np.rint(weights * inverse), -WEIGHT_MAX, WEIGHT_MAX).astype(np.int8)


def fake_quantize_weights(weights: Real) -> Real:
    """Weights ``(O, KH, KW, C)`` rounded to their 255 values per output channel, in floating point.

    Per-channel symmetric rounding commutes with a per-channel factor, so doing this before batch
    norm is the same as folding the batch norm first and rounding then (docs/decisions/quantization.md).
    """
    column = [-1, *[1] * (weights.ndim - 1)]
    scales = weight_scales(weights)
    kind = weights.dtype.type
    y = weights * (np.float32(1.0) / scales).astype(kind).reshape(column)
    np.rint(y, out=y)
    np.clip(y, -WEIGHT_MAX, WEIGHT_MAX, out=y)
    y *= scales.astype(kind).reshape(column)
    return y


def quantize_multiplier(real: float) -> tuple[int, int]:
    """A positive real factor as ``m * 2**(shift - 31)`` with m an int32 in [2**30, 2**31).

    Returns:
        ``(multiplier, shift)``; ``(0, 0)`` for factors too small to matter, as TensorFlow Lite does.

    Source:
        TensorFlow Lite, `QuantizeMultiplier` in kernels/internal/quantization_util.cc.
    """
    if not (math.isfinite(real) and real >= 0.0):
        raise QuantError(f"multiplier is {real}, expected a finite number that is not negative")
    if real == 0.0:
        return 0, 0
    mantissa, shift = math.frexp(real)
    # C's round(): halves away from zero, which for positive numbers is floor(x + 0.5).
    fixed = math.floor(mantissa * (1 << 31) + 0.5)
    if fixed == 1 << 31:
        fixed, shift = fixed // 2, shift + 1
    if shift < -31:
        return 0, 0
    if shift > 30:
        raise QuantError(f"multiplier is {real}, too large for a fixed-point factor")
    return fixed, shift


def multiply_by_quantized_multiplier(x: Int32 | Int64, multiplier: Array, shift: Array) -> Int64:
    """``x * multiplier * 2**(shift - 31)`` in integers, with gemmlowp's two roundings.

    First `SaturatingRoundingDoublingHighMul` of ``x << max(shift, 0)``, ties away from zero for the
    doubled high half; then `RoundingDivideByPOT` by ``2**max(-shift, 0)``, ties away from zero.

    Args:
        x: Integers of any shape whose last axis is the channel.
        multiplier: int32 in [2**30, 2**31) or 0, one per channel or one in all.
        shift: Exponents, in [-31, 30].
    """
    left = np.maximum(np.asarray(shift, np.int64), 0)
    right = np.maximum(-np.asarray(shift, np.int64), 0)
    high = np.asarray(x, np.int64) * (np.asarray(multiplier, np.int64) << left)
    # A shift rounds down where C divides towards zero; gemmlowp's nudges make up for that, so
    # that adding half and shifting is the same for both signs, and ties of the second go away from zero.
    high += 1 << 30
    high >>= 31
    high -= (high < 0) & (right > 0)
    high += (np.int64(1) << right) >> 1
    high >>= right
    return high


def requantize(acc: Int32, multiplier: Int32, shift: Int32, zero_point: int, low: int, high: int) -> Int8:
    """Scale 32-bit sums down to int8 activations: ``clip(fixed(acc) + zero_point, low, high)``.

    Args:
        acc: ``(..., O)`` int32 sums of int8 products, bias already added.
        multiplier: ``(O,)`` from `quantize_multiplier` of input scale x weight scale / output scale.
        shift: ``(O,)`` exponents that belong to `multiplier`.
        zero_point: The output value that stands for real zero.
        low: Smallest output; a fused ReLU raises it to the zero point.
        high: Largest output.
    """
    scaled = multiply_by_quantized_multiplier(acc, multiplier, shift) + zero_point
    return np.clip(scaled, low, high).astype(np.int8)


def range_names(graph: Graph) -> Mapping[str, str]:
    """For each node whose output is an 8-bit tensor, the name of its range tensor (``point/range``).

    Operations that keep the scale (pooling, concat, reshape, dropout) share one range with what
    they read: the name is that of the last place in the group where training rounds. Nodes inside
    a chain convolution or addition, batch norm, activation have no 8-bit output and are left out.
    """
    parent = {node.name: node.name for node in graph.nodes}

    def find(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for node in graph.nodes:
        if not isinstance(node, (Input, *_RESCALING, Softmax)) and not _continues(graph, node):
            for name in node.inputs:
                parent[find(name)] = find(node.name)
    owner = {find(node.name): node.name for node in graph.nodes if _is_point(graph, node)}
    return {node.name: f"{owner[find(node.name)]}/range" for node in graph.nodes if find(node.name) in owner}


def quantization_points(graph: Graph) -> Mapping[str, str]:
    """Where training rounds activations to 8 bits, and the range tensor each place uses.

    The places are the input and the last node of every chain convolution or addition, batch norm,
    activation; where only a Concat reads that node, the Concat is the place, since its inputs and
    its output share one range.
    """
    names = range_names(graph)
    return {node.name: names[node.name] for node in graph.nodes if _is_point(graph, node)}


def activation_behind(graph: Graph, node: Node) -> Activation | None:
    """The activation that the operation of a node takes in, if there is one; also beyond a Concat."""
    reader = _sole_reader(graph, node)
    if isinstance(reader, (Relu, ClippedRelu)) and _takes_activation(graph, node):
        return reader
    if isinstance(reader, Concat) and _takes_activation(graph, reader):
        return activation_behind(graph, reader)
    return None


def _sole_reader(graph: Graph, node: Node) -> Node | None:
    readers = graph.consumers[node.name]
    return readers[0] if len(readers) == 1 else None


def _takes_activation(graph: Graph, node: Node) -> bool:
    """Whether an activation behind this node is one operation with it, or with all that it joins."""
    if isinstance(node, Concat):
        inputs = [graph.by_name[name] for name in node.inputs]
        return all(_sole_reader(graph, read) is node and _takes_activation(graph, read) for read in inputs)
    return isinstance(node, (Conv2D, DepthwiseConv2D, Add, BatchNorm))


def _continues(graph: Graph, node: Node) -> bool:
    """Whether the output goes only into a batch norm or activation that is one operation with it."""
    reader = _sole_reader(graph, node)
    if isinstance(reader, BatchNorm):
        return folds(graph, reader)
    return isinstance(reader, (Relu, ClippedRelu)) and _takes_activation(graph, node)


def _is_point(graph: Graph, node: Node) -> bool:
    if isinstance(node, Input):
        return True
    if not isinstance(node, (*_RESCALING, Concat)) or _continues(graph, node):
        return False
    readers = graph.consumers[node.name]
    return not readers or not all(isinstance(reader, Concat) for reader in readers)


def range_params(
    ranges: Mapping[str, Float32 | Float64], name: str, ceiling: float = math.inf
) -> QuantParams:
    """The quantization of one range tensor ``[low, high]``, which is held to at most `ceiling`.

    Raises:
        QuantError: the range is missing or was never observed.
    """
    if name not in ranges:
        raise QuantError(f"range '{name}' is missing: calibrate the model first")
    values = np.asarray(ranges[name])
    if values.shape != (2,):
        raise QuantError(f"range '{name}' has shape {values.shape}, expected (2,)")
    return QuantParams.from_range(float(values[0]), float(values[1]), ceiling)
