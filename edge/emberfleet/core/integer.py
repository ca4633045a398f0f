"""The int8 network as a value: integer operations with every number they need.

`core.lowering.quantize` makes one from a trained graph: int8 weights, int32 biases, fixed-point multipliers.
The numpy reference, the OpenCL kernels and the writers all read this one list, so none of them decides about
a scale, a padding or a rounding. Tensors are int8 NHWC without the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from emberfleet.core.arrays import Float32, Int8, Int32
from emberfleet.core.nodes import Padding, Shape
from emberfleet.core.quantization import QMAX, QMIN, QuantParams

ADD_LEFT_SHIFT = 20
"""Bits of headroom that both operands of an addition are raised by before they are rescaled."""


@dataclass(frozen=True, slots=True)
class IntegerTensor:
    """Shape without the batch, and what its int8 values stand for."""

    shape: Shape
    params: QuantParams


@dataclass(frozen=True, slots=True)
class _Unary:
    """What an operation with one input has in common with the others."""

    output: str
    input: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors read."""
        return (self.input,)


@dataclass(frozen=True, slots=True)
class _Convolution(_Unary):
    """What both kinds of convolution are made of."""

    weights: Int8
    """``(O, KH, KW, C)``; depthwise ``(O, KH, KW, 1)``."""
    weight_scales: Float32
    """``(O,)``."""
    bias: Int32
    """``(O,)`` in units of input scale x weight scale."""
    multiplier: Int32
    """``(O,)`` fixed-point factor of `requantize`."""
    shift: Int32
    """``(O,)`` exponent of `requantize`."""
    stride: tuple[int, int]
    padding: Padding
    relu: bool
    """Whether outputs are clamped from below at the output's zero point."""


@dataclass(frozen=True, slots=True)
class IntegerConv(_Convolution):
    """``out = requantize(bias[o] + sum of (x - input zero point) * weights[o])``; padding adds nothing."""


@dataclass(frozen=True, slots=True)
class IntegerDepthwiseConv(_Convolution):
    """`IntegerConv` whose output channel o reads input channel ``o // depth_multiplier`` alone."""

    depth_multiplier: int


@dataclass(frozen=True, slots=True)
class IntegerMaxPool(_Unary):
    """Largest value of each window; the scale is that of the input."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding


@dataclass(frozen=True, slots=True)
class IntegerAveragePool(_Unary):
    """Mean over h and w of int8 values, halves away from zero; the scale is that of the input."""


@dataclass(frozen=True, slots=True)
class IntegerWindowAveragePool(_Unary):
    """Mean of the pixels in each window, halves away from zero; padding does not count; same scale.

    Source: TensorFlow Lite `AveragePool` (int8), kernels/internal/reference/integer_ops/pooling.h.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding


@dataclass(frozen=True, slots=True)
class IntegerConcat:
    """Joined along the channels; every input has the scale of the output."""

    output: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IntegerAdd:
    """Both operands rescaled to a common scale with 20 bits of headroom, added, rescaled to the output's.

    Source: TensorFlow Lite `AddElementwise` (int8), kernels/internal/reference/integer_ops/add.h.
    """

    output: str
    inputs: tuple[str, str]
    multipliers: tuple[int, int, int]
    """Of the first operand, the second, the sum."""
    shifts: tuple[int, int, int]
    relu: bool


@dataclass(frozen=True, slots=True)
class IntegerRelu(_Unary):
    """A ReLU that no convolution or addition could take in: rescaled, then clamped at the zero point."""

    multiplier: int
    shift: int


@dataclass(frozen=True, slots=True)
class IntegerReshape(_Unary):
    """The same values under another shape."""


IntegerOp: TypeAlias = (
    IntegerConv
    | IntegerDepthwiseConv
    | IntegerMaxPool
    | IntegerAveragePool
    | IntegerWindowAveragePool
    | IntegerConcat
    | IntegerAdd
    | IntegerRelu
    | IntegerReshape
)


@dataclass(frozen=True, slots=True)
class IntegerNetwork:
    """Integer operations in order, and every tensor they read or write."""

    input: str
    output: str
    tensors: Mapping[str, IntegerTensor]
    ops: tuple[IntegerOp, ...]

    @property
    def input_tensor(self) -> IntegerTensor:
        """Shape and scale of what goes in."""
        return self.tensors[self.input]

    @property
    def output_tensor(self) -> IntegerTensor:
        """Shape and scale of what comes out: the logits."""
        return self.tensors[self.output]


def output_limits(
    op: IntegerConv | IntegerDepthwiseConv | IntegerAdd | IntegerRelu, params: QuantParams
) -> tuple[int, int]:
    """Smallest and largest int8 output of an operation: a fused ReLU starts at the zero point."""
    relu = True if isinstance(op, IntegerRelu) else op.relu
    return (max(QMIN, params.zero_point) if relu else QMIN, QMAX)
