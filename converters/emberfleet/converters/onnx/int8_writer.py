"""The int8 network as a .onnx in the QDQ form: every number is that of `core.lowering`.

Each operation stands between DequantizeLinear and QuantizeLinear, which runtimes fuse with it into
integer arithmetic: int8 activations with one scale, int8 weights with one scale per output channel,
int32 biases. Pixels and scores are float32. Runtimes rescale sums in floating point where we use
fixed-point factors, so a value may be one step off.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from emberfleet.converters.onnx.drawing import INPUT, OUTPUT, Drawing, channels_first, one
from emberfleet.core.integer import (
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
)
from emberfleet.core.nodes import Padding


def write_onnx_int8(
    network: IntegerNetwork,
    metadata: Mapping[str, str] | None = None,
    description: str = "emberfleet int8",
) -> bytes:
    """The bytes of an int8 .onnx: ``(N, C, H, W)`` preprocessed pixels in, logits out, both float32.

    Args:
        network: As `core.lowering.quantize` gives it; a softmax is left to the host.
        metadata: Texts for the file, see `metadata.describe`.
        description: What the file says about itself.
    """
    drawing = _QuantizedDrawing(network)
    names = {network.input: drawing.through_int8(network.input, INPUT)}
    for op in network.ops:
        real = _draw(drawing, op, tuple(names[name] for name in op.inputs))
        last = op.output == network.output
        names[op.output] = drawing.through_int8(op.output, real, OUTPUT if last else None)
    return drawing.encode(
        network.input_tensor.shape, network.output_tensor.shape, description, metadata or {}
    )


class _QuantizedDrawing(Drawing):
    """Knows the scales of every tensor."""

    def __init__(self, network: IntegerNetwork) -> None:
        super().__init__()
        self.network = network

    def through_int8(self, name: str, real: str, output: str | None = None) -> str:
        """Round a tensor to its 256 values; returns the name of what others read."""
        params = self.network.tensors[name].params
        steps = (
            self.constant(f"{name}/scale", one(params.scale)),
            self.constant(f"{name}/zero_point", np.array(params.zero_point, np.int8)),
        )
        rounded = self.add("QuantizeLinear", (real, *steps), self.unused(f"{name}/int8"))
        return self.add("DequantizeLinear", (rounded, *steps), output or self.unused(name))

    def dequantized(self, op: IntegerConv | IntegerDepthwiseConv) -> tuple[str, str]:
        """Weights and bias of a convolution as the real numbers that they stand for."""
        scales = op.weight_scales
        steps = np.float32(self.network.tensors[op.input].params.scale) * scales
        weights = (
            self.constant(f"{op.output}/weights", channels_first(op.weights)),
            self.constant(f"{op.output}/weight_scales", scales),
            self.constant(f"{op.output}/weight_zeros", np.zeros(len(scales), np.int8)),
        )
        bias = (
            self.constant(f"{op.output}/bias", op.bias),
            self.constant(f"{op.output}/bias_scales", steps),
        )
        return (
            self.add("DequantizeLinear", weights, self.unused(f"{op.output}/real_weights"), axis=0),
            self.add("DequantizeLinear", bias, self.unused(f"{op.output}/real_bias"), axis=0),
        )

    def pool(
        self,
        kind: str,
        source: str,
        output: str,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: Padding,
    ) -> str:
        """A pool over windows."""
        return self.add(kind, (source,), output, kernel_shape=kernel, strides=stride, pads=padding)


def _draw(drawing: _QuantizedDrawing, op: IntegerOp, sources: tuple[str, ...]) -> str:
    """One operation on real numbers; returns the name of its output, still to be rounded."""
    output = drawing.unused(f"{op.output}/real")
    source = sources[0]
    tensors = drawing.network.tensors
    relu = isinstance(op, IntegerConv | IntegerDepthwiseConv | IntegerAdd) and op.relu
    raw = drawing.unused(f"{op.output}/sum") if relu else output
    match op:
        case IntegerConv() | IntegerDepthwiseConv():
            kernel = (op.weights.shape[1], op.weights.shape[2])
            group = tensors[op.input].shape[2] if isinstance(op, IntegerDepthwiseConv) else 1
            drawing.conv(source, drawing.dequantized(op), raw, kernel, op.stride, op.padding, group)
        case IntegerAdd():
            drawing.add("Add", sources, raw)
        case IntegerMaxPool():
            drawing.pool("MaxPool", source, output, op.kernel, op.stride, op.padding)
        case IntegerWindowAveragePool():
            drawing.pool("AveragePool", source, output, op.kernel, op.stride, op.padding)
        case IntegerAveragePool():
            drawing.global_average_pool(source, output)
        case IntegerConcat():
            drawing.add("Concat", sources, output, axis=1)
        case IntegerRelu():
            drawing.add("Relu", sources, output)
        case IntegerReshape():
            drawing.reshape(source, output, tensors[op.input].shape, tensors[op.output].shape)
    if relu:
        drawing.add("Relu", (raw,), output)
    return output
