"""A .tflite as a value: tensors, operators, and what the file says about itself.

The writers describe a network with these; `flatbuffer` alone knows how they lie in the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum

from emberfleet.core.arrays import Array, Float32
from emberfleet.core.nodes import Shape


class TensorType(Enum):
    """Element types that Emberfleet writes, by the schema's names."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT32 = "int32"
    INT8 = "int8"


class OperatorKind(Enum):
    """Operators that Emberfleet writes, by the schema's names."""

    CONV_2D = "CONV_2D"
    DEPTHWISE_CONV_2D = "DEPTHWISE_CONV_2D"
    MAX_POOL_2D = "MAX_POOL_2D"
    AVERAGE_POOL_2D = "AVERAGE_POOL_2D"
    CONCATENATION = "CONCATENATION"
    ADD = "ADD"
    RELU = "RELU"
    RELU6 = "RELU6"
    MINIMUM = "MINIMUM"
    STRIDED_SLICE = "STRIDED_SLICE"
    QUANTIZE = "QUANTIZE"
    DEQUANTIZE = "DEQUANTIZE"
    PAD = "PAD"
    PADV2 = "PADV2"
    RESHAPE = "RESHAPE"
    SOFTMAX = "SOFTMAX"


OPTIONS_TABLES: Mapping[OperatorKind, str] = {
    OperatorKind.CONV_2D: "Conv2DOptions",
    OperatorKind.DEPTHWISE_CONV_2D: "DepthwiseConv2DOptions",
    OperatorKind.MAX_POOL_2D: "Pool2DOptions",
    OperatorKind.AVERAGE_POOL_2D: "Pool2DOptions",
    OperatorKind.CONCATENATION: "ConcatenationOptions",
    OperatorKind.ADD: "AddOptions",
    OperatorKind.MINIMUM: "MaximumMinimumOptions",
    OperatorKind.STRIDED_SLICE: "StridedSliceOptions",
    OperatorKind.QUANTIZE: "QuantizeOptions",
    OperatorKind.DEQUANTIZE: "DequantizeOptions",
    OperatorKind.PAD: "PadOptions",
    OperatorKind.PADV2: "PadV2Options",
    OperatorKind.RESHAPE: "ReshapeOptions",
    OperatorKind.SOFTMAX: "SoftmaxOptions",
}
"""The schema's table of options of each operator that has one."""


class TflitePadding(IntEnum):
    """`Padding` of the schema."""

    SAME = 0
    VALID = 1


class Activation(IntEnum):
    """`ActivationFunctionType` of the schema, as far as Emberfleet fuses any."""

    NONE = 0
    RELU = 1
    RELU6 = 3


@dataclass(frozen=True, slots=True)
class TfliteQuantization:
    """``real = scale * (q - zero_point)``: one scale per tensor, or one per index of `axis`."""

    scales: Float32
    """``(1,)`` or ``(O,)``."""
    zero_point: int = 0
    axis: int = 0


@dataclass(frozen=True, slots=True)
class TfliteTensor:
    """One tensor; a constant has data. Shapes of what is computed count the batch, which is 1 in the file."""

    name: str
    shape: Shape
    type: TensorType
    data: Array | None = None
    quantization: TfliteQuantization | None = None


@dataclass(frozen=True, slots=True)
class TfliteOperator:
    """One operator; inputs and outputs are indices of tensors, options by the schema's field names."""

    kind: OperatorKind
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, int | float] = field(default_factory=dict)
    version: int = 1


@dataclass(frozen=True, slots=True)
class TfliteModel:
    """One subgraph with one input and one output, and a signature that names them."""

    tensors: Sequence[TfliteTensor]
    operators: Sequence[TfliteOperator]
    input: int
    output: int
    description: str
