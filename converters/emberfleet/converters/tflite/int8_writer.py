"""The int8 network as a .tflite: int8 in, int8 out, the same bits as the numpy reference.

Every number stands in the `IntegerNetwork`: this only says which operator carries it. The fixed-point
multipliers are not in the file, TensorFlow Lite derives them from the scales as `core.integer` does.
"""

from __future__ import annotations

import numpy as np

from emberfleet.converters.tflite.drawing import Drawing, Window
from emberfleet.converters.tflite.flatbuffer import encode_model
from emberfleet.converters.tflite.model import TensorType, TfliteModel, TfliteQuantization
from emberfleet.core.errors import ConversionError
from emberfleet.core.integer import (
    IntegerAdd,
    IntegerAveragePool,
    IntegerConcat,
    IntegerConv,
    IntegerMaxPool,
    IntegerNetwork,
    IntegerOp,
    IntegerRelu,
    IntegerReshape,
)
from emberfleet.core.quantization import QuantParams


def write_tflite_int8(network: IntegerNetwork, description: str = "emberfleet int8") -> bytes:
    """The bytes of a full-int8 .tflite: ``(1, H, W, C)`` int8 in, quantized logits out.

    Any batch runs after `resize_tensor_input`. A softmax is left to the host.
    """
    return encode_model(draw_int8(network, description))


def draw_int8(network: IntegerNetwork, description: str = "emberfleet int8") -> TfliteModel:
    """The network as tensors and operators of TensorFlow Lite."""
    drawing = Drawing(TensorType.INT8)
    places: dict[str, int] = {}

    def declare(name: str) -> int:
        tensor = network.tensors[name]
        places[name] = drawing.activation(name, tensor.shape, _of_tensor(tensor.params))
        return places[name]

    declare(network.input)
    for op in network.ops:
        sources = tuple(places[name] for name in op.inputs)
        _draw(drawing, network, op, sources, declare(op.output))
    return drawing.model(places[network.input], places[network.output], description)


def _draw(
    drawing: Drawing, network: IntegerNetwork, op: IntegerOp, sources: tuple[int, ...], output: int
) -> None:
    if isinstance(op, IntegerConv):
        step = (np.float64(network.tensors[op.input].params.scale) * op.weight_scales).astype(np.float32)
        weights = drawing.constant(f"{op.output}/w", op.weights, TfliteQuantization(op.weight_scales))
        bias = drawing.constant(f"{op.output}/b", op.bias, TfliteQuantization(step))
        kernel = (op.weights.shape[1], op.weights.shape[2])
        drawing.conv((sources[0], weights, bias), output, Window(kernel, op.stride, op.padding), op.relu)
    elif isinstance(op, IntegerMaxPool):
        drawing.max_pool(sources[0], output, Window(op.kernel, op.stride, op.padding))
    elif isinstance(op, IntegerAveragePool):
        drawing.global_average_pool(sources[0], output)
    elif isinstance(op, IntegerConcat):
        drawing.concat(sources, output)
    elif isinstance(op, IntegerAdd):
        drawing.add((sources[0], sources[1]), output, op.relu)
    elif isinstance(op, IntegerRelu):
        drawing.relu(sources[0], output)
    elif isinstance(op, IntegerReshape):
        drawing.reshape(sources[0], output)
    else:
        raise ConversionError(f"{type(op).__name__} '{op.output}' has no form in TensorFlow Lite")


def _of_tensor(params: QuantParams) -> TfliteQuantization:
    return TfliteQuantization(np.array([params.scale], np.float32), params.zero_point)
