"""From a trained graph to the int8 network: fold, scale, round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from emberfleet.core.arrays import Float32, Float64, Tensors
from emberfleet.core.errors import ConversionError, QuantError
from emberfleet.core.folding import without_norms
from emberfleet.core.graph import Graph
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
    IntegerTensor,
    IntegerWindowAveragePool,
)
from emberfleet.core.nodes import (
    Add,
    AveragePool,
    ClippedRelu,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    GlobalAveragePool,
    Input,
    MaxPool,
    Node,
    Relu,
    Reshape,
    Softmax,
)
from emberfleet.core.quantization import (
    Activation,
    QuantParams,
    activation_behind,
    quantize_multiplier,
    quantize_weights,
    range_names,
    range_params,
    weight_scales,
)

MAX_BIAS = 1 << 29
"""Largest bias in units of input scale x weight scale: a quarter of int32, the rest is for products."""


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
                IntegerDepthwiseConv(out.name, source, q, scales, b, m, s, *slide, out.relu, depth), out
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
