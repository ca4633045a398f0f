"""The int8 network as a .tflite: int8 in, int8 out, the same bits as the numpy reference.

Every number stands in the `IntegerNetwork`: this only says which operator carries it. The fixed-point
multipliers are not in the file, TensorFlow Lite derives them from the scales as `core.lowering` does.
"""

from __future__ import annotations

import numpy as np

from emberfleet.converters.tflite.drawing import Drawing
from emberfleet.converters.tflite.flatbuffer import encode_model
from emberfleet.converters.tflite.metadata import ModelCard
from emberfleet.converters.tflite.model import Activation, TensorType, TfliteModel, TfliteQuantization
from emberfleet.converters.tflite.windows import Window
from emberfleet.core.errors import ConversionError
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
from emberfleet.core.quantization import QuantParams


def write_tflite_int8(
    network: IntegerNetwork,
    description: str = "emberfleet int8",
    *,
    float_io: bool = False,
    softmax: bool = False,
    card: ModelCard | None = None,
) -> bytes:
    """The bytes of a full-int8 .tflite: ``(1, H, W, C)`` in, logits out.

    Any batch runs after `resize_tensor_input`.

    Args:
        network: What to write.
        description: What the file says about itself.
        float_io: Take and give float32: a QUANTIZE before the first operator, a DEQUANTIZE behind the
            last. Otherwise both are int8 on the scales that the file states.
        softmax: Give probabilities instead of logits; needs `float_io`, since it is computed in float32.
        card: Metadata to put into the file.

    Raises:
        ConversionError: an operation has no form in TensorFlow Lite, or a softmax was asked of int8.
    """
    return encode_model(draw_int8(network, description, float_io=float_io, softmax=softmax), card)


def draw_int8(
    network: IntegerNetwork,
    description: str = "emberfleet int8",
    *,
    float_io: bool = False,
    softmax: bool = False,
) -> TfliteModel:
    """The network as tensors and operators of TensorFlow Lite."""
    if softmax and not float_io:
        raise ConversionError("a softmax is computed in float32: ask for float in and out with it")
    drawing = Drawing(TensorType.INT8)
    places: dict[str, int] = {}

    def declare(name: str) -> int:
        tensor = network.tensors[name]
        places[name] = drawing.activation(name, tensor.shape, _of_tensor(tensor.params))
        return places[name]

    start = declare(network.input)
    if float_io:
        start = drawing.activation("image", network.input_tensor.shape, element=TensorType.FLOAT32)
        drawing.quantize(start, places[network.input])
    for op in network.ops:
        sources = tuple(places[name] for name in op.inputs)
        _draw(drawing, network, op, sources, declare(op.output))
    end = places[network.output]
    if float_io:
        logits = drawing.activation("logits", network.output_tensor.shape, element=TensorType.FLOAT32)
        drawing.dequantize(end, logits)
        end = logits
    if softmax:
        end = drawing.activation("scores", network.output_tensor.shape, element=TensorType.FLOAT32)
        drawing.softmax(logits, end)
    return drawing.model(start, end, description)


def _draw(
    drawing: Drawing, network: IntegerNetwork, op: IntegerOp, sources: tuple[int, ...], output: int
) -> None:
    if isinstance(op, (IntegerConv, IntegerDepthwiseConv)):
        _conv(drawing, network, op, sources[0], output)
    elif isinstance(op, IntegerMaxPool):
        drawing.max_pool(sources[0], output, Window(op.kernel, op.stride, op.padding))
    elif isinstance(op, IntegerAveragePool):
        drawing.global_average_pool(sources[0], output)
    elif isinstance(op, IntegerWindowAveragePool):
        drawing.average_pool(sources[0], output, Window(op.kernel, op.stride, op.padding))
    elif isinstance(op, IntegerConcat):
        drawing.concat(sources, output)
    elif isinstance(op, IntegerAdd):
        drawing.add((sources[0], sources[1]), output, _activation(op.relu))
    elif isinstance(op, IntegerRelu):
        drawing.relu(sources[0], output)
    elif isinstance(op, IntegerReshape):
        drawing.reshape(sources[0], output)
    else:
        raise ConversionError(f"{type(op).__name__} '{op.output}' has no form in TensorFlow Lite")


def _conv(
    drawing: Drawing,
    network: IntegerNetwork,
    op: IntegerConv | IntegerDepthwiseConv,
    source: int,
    output: int,
) -> None:
    depthwise = isinstance(op, IntegerDepthwiseConv)
    step = (np.float64(network.tensors[op.input].params.scale) * op.weight_scales).astype(np.float32)
    weights = drawing.constant(
        f"{op.output}/w",
        op.weights.transpose(3, 1, 2, 0) if depthwise else op.weights,
        TfliteQuantization(op.weight_scales, 0, 3 if depthwise else 0),
    )
    bias = drawing.constant(f"{op.output}/b", op.bias, TfliteQuantization(step))
    window = Window((op.weights.shape[1], op.weights.shape[2]), op.stride, op.padding)
    depth = op.depth_multiplier if isinstance(op, IntegerDepthwiseConv) else None
    drawing.conv((source, weights, bias), output, window, _activation(op.relu), depth)


def _activation(relu: bool) -> Activation:
    return Activation.RELU if relu else Activation.NONE


def _of_tensor(params: QuantParams) -> TfliteQuantization:
    return TfliteQuantization(np.array([params.scale], np.float32), params.zero_point)
