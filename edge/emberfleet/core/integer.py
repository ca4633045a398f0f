"""The int8 network: lowered once from a trained graph, run bit for bit the same everywhere.

`quantize` turns a graph and its tensors into a list of integer operations with every number
they need: int8 weights, int32 biases, fixed-point multipliers. The numpy reference, the OpenCL
kernels and the .tflite writer all read this one list, so none of them decides about a scale,
a padding or a rounding. Tensors are int8 NHWC without the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from emberfleet.core.arrays import Float32, Float64, Int8, Int32, Tensors
from emberfleet.core.errors import ConversionError, QuantError
from emberfleet.core.folding import without_norms
from emberfleet.core.graph import (
    Add,
    AveragePool,
    ClippedRelu,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    GlobalAveragePool,
    Graph,
    Input,
    MaxPool,
    Node,
    Padding,
    Relu,
    Reshape,
    Shape,
    Softmax,
)
from emberfleet.core.quantization import (
    QMAX,
    QMIN,
    Activation,
    QuantParams,
    activation_behind,
    quantize_multiplier,
    quantize_weights,
    range_names,
    range_params,
    weight_scales,
)

ADD_LEFT_SHIFT = 20
"""Bits of headroom that both operands of an addition are raised by before they are rescaled."""


MAX_BIAS = 1 << 29
"""Largest bias in units of input scale x weight scale: a quarter of int32, the rest is for products."""


@dataclass(frozen=True, slots=True)
class IntegerTensor:
    """Shape without the batch, and what its int8 values stand for."""

    shape: Shape
    params: QuantParams


@dataclass(frozen=True, slots=True)
class IntegerConv:
    """``out = requantize(bias[o] + sum of (x - input zero point) * weights[o])``; padding adds nothing."""

    output: str
    input: str
    weights: Int8
    """``(O, KH, KW, C)``."""
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

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors read."""
        return (self.input,)


@dataclass(frozen=True, slots=True)
class IntegerDepthwiseConv:
    """`IntegerConv` whose output channel o reads input channel ``o // depth_multiplier`` alone."""

    output: str
    input: str
    depth_multiplier: int
    weights: Int8
    """``(O, KH, KW, 1)``."""
    weight_scales: Float32
    bias: Int32
    multiplier: Int32
    shift: Int32
    stride: tuple[int, int]
    padding: Padding
    relu: bool

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors read."""
        return (self.input,)


@dataclass(frozen=True, slots=True)
class IntegerMaxPool:
    """Largest value of each window; the scale is that of the input."""

    output: str
    input: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors read."""
        return (self.input,)


@dataclass(frozen=True, slots=True)
class IntegerAveragePool:
    """Mean over h and w of int8 values, halves away from zero; the scale is that of the input."""

    output: str
    input: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors read."""
        return (self.input,)


@dataclass(frozen=True, slots=True)
class IntegerWindowAveragePool:
    """Mean of the pixels in each window, halves away from zero; padding does not count; same scale.

    Source: TensorFlow Lite `AveragePool` (int8), kernels/internal/reference/integer_ops/pooling.h.
    """

    output: str
    input: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors read."""
        return (self.input,)


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
class IntegerRelu:
    """A ReLU that no convolution or addition could take in: rescaled, then clamped at the zero point."""

    output: str
    input: str
    multiplier: int
    shift: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors read."""
        return (self.input,)


@dataclass(frozen=True, slots=True)
class IntegerReshape:
    """The same values under another shape."""

    output: str
    input: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors read."""
        return (self.input,)


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


def quantize(graph: Graph, tensors: Tensors) -> IntegerNetwork:
    """Lower a trained graph to int8: fold, scale, round; a final softmax is left to the host.

    Args:
        graph: The network as trained, batch norm and dropout included.
        tensors: Parameters, running statistics and ranges, float32.

    Raises:
        QuantError: a range is missing (the model was never calibrated) or unusable.
        ConversionError: a structure that has no int8 form; names the node.
    """
    folded, held = without_norms(graph, tensors)
    return _Lowering(folded, held).run()


@dataclass(frozen=True, slots=True)
class _Output:
    """The tensor that an operation writes, and what has to follow."""

    name: str
    params: QuantParams
    relu: bool
    """Whether the operation takes in an activation."""
    then: tuple[IntegerRelu, ...] = ()


class _Lowering:
    """One pass over the folded graph; `names` maps its nodes to integer tensors."""

    def __init__(self, graph: Graph, held: Mapping[str, Float32]) -> None:
        self.graph = graph
        self.held = held
        self.ranges = range_names(graph)
        self.ceilings = _ceilings(graph, self.ranges)
        self.names: dict[str, str] = {}
        self.tensors: dict[str, IntegerTensor] = {}
        self.ops: list[IntegerOp] = []

    def run(self) -> IntegerNetwork:
        """Lower node by node."""
        for node in self.graph.nodes:
            if node.name not in self.names and not isinstance(node, Softmax):
                self._lower(node)
        start = self.graph.input.name
        return IntegerNetwork(start, self.names[self.graph.logits], self.tensors, tuple(self.ops))

    def _lower(self, node: Node) -> None:
        if isinstance(node, Input):
            self._declare(node, node, node.name)
        elif isinstance(node, (Conv2D, DepthwiseConv2D)):
            self._conv(node)
        elif isinstance(node, Add):
            self._add(node)
        elif isinstance(node, Concat):
            self._concat(node)
        elif isinstance(node, (Relu, ClippedRelu)):
            self._relu(node)
        elif isinstance(node, MaxPool):
            source = self._keep_scale(node)
            self.ops.append(IntegerMaxPool(node.name, source, node.kernel, node.stride, node.padding))
        elif isinstance(node, AveragePool):
            source = self._keep_scale(node)
            self.ops.append(
                IntegerWindowAveragePool(node.name, source, node.kernel, node.stride, node.padding)
            )
        elif isinstance(node, GlobalAveragePool):
            self.ops.append(IntegerAveragePool(node.name, self._keep_scale(node)))
        elif isinstance(node, Reshape):
            self.ops.append(IntegerReshape(node.name, self._keep_scale(node)))
        else:
            raise ConversionError(f"{node.kind} '{node.name}' has no int8 form")

    def _declare(self, node: Node, scaled_by: Node, name: str) -> IntegerTensor:
        """Make the integer tensor `name` for `node`, on the scale of `scaled_by`."""
        if scaled_by.name not in self.ranges:
            readers = ", ".join(f"'{r.name}'" for r in self.graph.consumers[node.name])
            raise ConversionError(f"'{node.name}' has no 8-bit range of its own, yet {readers} read it")
        tensor = IntegerTensor(self.graph.shapes[node.name], self._params(self.ranges[scaled_by.name]))
        self.names[node.name] = name
        self.tensors[name] = tensor
        return tensor

    def _params(self, range_name: str, ceiling: float = math.inf) -> QuantParams:
        """The quantization of a range that reaches no higher than what is put into it, nor than `ceiling`."""
        return range_params(self.held, range_name, min(ceiling, self.ceilings[range_name]))

    def _output(self, node: Node) -> _Output:
        """Declare what a convolution, addition or lone activation writes, and what it takes in."""
        behind = node if isinstance(node, (Relu, ClippedRelu)) else activation_behind(self.graph, node)
        name = node.name
        if behind is not None and behind in self.graph.consumers[node.name]:
            name = self.names[behind.name] = behind.name
        tensor = self._declare(node, behind or node, name)
        if isinstance(behind, ClippedRelu):
            params = self._params(self.ranges[behind.name], behind.ceiling)
            if params != tensor.params:
                return self._clipped(tensor, name, params)
        return _Output(name, tensor.params, behind is not None)

    def _clipped(self, tensor: IntegerTensor, name: str, params: QuantParams) -> _Output:
        """Write on a scale whose 127 is the ceiling, then rescale to that of `tensor`."""
        own = f"{name}/clipped"
        while own in self.graph.by_name:
            own += "/clipped"
        self.tensors[own] = IntegerTensor(tensor.shape, params)
        rescaling = IntegerRelu(name, own, *quantize_multiplier(params.scale / tensor.params.scale))
        return _Output(own, params, True, (rescaling,))

    def _conv(self, node: Conv2D | DepthwiseConv2D) -> None:
        source = self.names[node.inputs[0]]
        out = self._output(node)
        weights = self.held[f"{node.name}/weight"]
        if not np.isfinite(weights).all():
            raise QuantError(f"{node.kind} '{node.name}': weights hold values that are not finite")
        bias = self.held[f"{node.name}/bias"].astype(np.float64) if node.bias else np.zeros(len(weights))
        if not np.isfinite(bias).all():
            raise QuantError(f"{node.kind} '{node.name}': bias holds values that are not finite")
        scales = _channel_scales(weights, bias, self.tensors[source].params.scale)
        step = self.tensors[source].params.scale * scales.astype(np.float64)
        fixed = [quantize_multiplier(float(factor)) for factor in step / out.params.scale]
        q = quantize_weights(weights, scales)
        b = np.rint(bias / step).astype(np.int32)
        m, s = (np.array(part, np.int32) for part in zip(*fixed, strict=True))
        slide = (node.stride, node.padding)
        if isinstance(node, Conv2D):
            self._emit(IntegerConv(out.name, source, q, scales, b, m, s, *slide, out.relu), out)
        else:
            depth = node.multiplier
            self._emit(
                IntegerDepthwiseConv(out.name, source, depth, q, scales, b, m, s, *slide, out.relu), out
            )

    def _add(self, node: Add) -> None:
        first, second = (self.names[name] for name in node.inputs)
        out = self._output(node)
        scales = [self.tensors[source].params.scale for source in (first, second)]
        twice = 2.0 * max(scales)
        fixed = [
            quantize_multiplier(scales[0] / twice),
            quantize_multiplier(scales[1] / twice),
            quantize_multiplier(twice / ((1 << ADD_LEFT_SHIFT) * out.params.scale)),
        ]
        if fixed[2][1] > 0:
            raise QuantError(f"add '{node.name}': its range is too narrow for the operands it sums")
        m, s = zip(*fixed, strict=True)
        op = IntegerAdd(out.name, (first, second), (m[0], m[1], m[2]), (s[0], s[1], s[2]), out.relu)
        self._emit(op, out)

    def _relu(self, node: Activation) -> None:
        source = self.names[node.inputs[0]]
        out = self._output(node)
        factor = self.tensors[source].params.scale / out.params.scale
        self._emit(IntegerRelu(out.name, source, *quantize_multiplier(factor)), out)

    def _emit(self, op: IntegerOp, out: _Output) -> None:
        self.ops.extend((op, *out.then))

    def _concat(self, node: Concat) -> None:
        behind = activation_behind(self.graph, node)
        name = node.name
        if behind is not None and behind in self.graph.consumers[node.name]:
            name = self.names[behind.name] = behind.name
        out = self._declare(node, behind or node, name)
        sources = tuple(self.names[source] for source in node.inputs)
        for source in sources:
            if self.tensors[source].params != out.params:
                raise ConversionError(f"concat '{node.name}': '{source}' is not on the scale of the output")
        self.ops.append(IntegerConcat(name, sources))

    def _keep_scale(self, node: Node) -> str:
        """Declare the output of an operation that keeps its input's scale; returns the input."""
        source = self.names[node.inputs[0]]
        self._declare(node, node, node.name)
        if self.tensors[source].params != self.tensors[node.name].params:
            raise ConversionError(f"{node.kind} '{node.name}': input '{source}' is on another scale")
        return source


def _channel_scales(weights: Float32, bias: Float64, input_scale: float) -> Float32:
    """The scale of each output channel's weights, made so wide that its bias fits into 30 bits.

    A channel that training has all but switched off has weights so small that its bias would be cut
    off in their units; wider ones lose of the weights what no output shows. One whose weights are
    all zero takes the units that suit its bias.
    """
    scales = weight_scales(weights)
    finest = (np.abs(bias) / (input_scale * MAX_BIAS)).astype(np.float32)
    silent = (weights == 0).all(axis=(1, 2, 3)) & (finest > np.finfo(np.float32).tiny)
    return np.where(silent, finest, np.maximum(scales, finest)).astype(np.float32)


def _ceilings(graph: Graph, ranges: Mapping[str, str]) -> dict[str, float]:
    """How high the values that share a range can be: finite where all come from clipped activations."""
    found: dict[str, float] = {}
    for name, shared in ranges.items():
        node = graph.by_name[name]
        if isinstance(node, (MaxPool, AveragePool, GlobalAveragePool, Concat, Reshape)):
            continue
        ceiling = node.ceiling if isinstance(node, ClippedRelu) else math.inf
        found[shared] = max(found.get(shared, 0.0), ceiling)
    return found


def output_limits(
    op: IntegerConv | IntegerDepthwiseConv | IntegerAdd | IntegerRelu, params: QuantParams
) -> tuple[int, int]:
    """Smallest and largest int8 output of an operation: a fused ReLU starts at the zero point."""
    relu = True if isinstance(op, IntegerRelu) else op.relu
    return (max(QMIN, params.zero_point) if relu else QMIN, QMAX)
