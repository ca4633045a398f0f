"""From a .onnx file to our graph and tensors.

The operators are walked once, in the file's order. Each turns what is known of its inputs (constants,
or where in our network their values are) into what is known of its output, and adds the nodes it needs:
see `walk` for the state, `view` for the layouts, and the modules of the handlers for each operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from emberfleet.converters.onnx.arithmetic import ARITHMETIC
from emberfleet.converters.onnx.constants import FOLDERS, fold_constants
from emberfleet.converters.onnx.convolutions import CONVOLUTIONS
from emberfleet.converters.onnx.file import OnnxModel, read_onnx
from emberfleet.converters.onnx.pooling import POOLS
from emberfleet.converters.onnx.shaping import SHAPING
from emberfleet.converters.onnx.view import View
from emberfleet.converters.onnx.walk import Handlers, Walk
from emberfleet.core.arrays import Float32
from emberfleet.core.errors import ConversionError, ShapeError
from emberfleet.core.graph import MAX_EXTENT, Graph
from emberfleet.core.nodes import Shape

HANDLERS: Final[Handlers] = {**CONVOLUTIONS, **POOLS, **ARITHMETIC, **SHAPING}
SUPPORTED: Final = tuple(sorted({*HANDLERS, "Constant"}))
"""The operators on images and classes; more are computed where all their inputs are constants."""
_QUANTIZED: Final = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinear", "Integer")

_CHANNELS_FIRST: Final = (
    "Conv",
    "BatchNormalization",
    *(name for name in POOLS if name not in ("Pad", "ReduceMean")),
)
_VALUE_BY_VALUE: Final = ("Identity", "Cast", "Add", "Sub", "Mul", "Div", "Relu", "Clip", "Max", "Min", "Pad")


@dataclass(frozen=True, slots=True)
class ImportedNetwork:
    """A network from outside, in our form.

    Attributes:
        graph: The network.
        tensors: Its weights and running statistics.
        input_scale: One value per channel: our network's input is the file's times this ...
        input_shift: ... plus this. What the file did to its input before the first layer.
        operators: How many operators the file's network has.
        folded: What needed no node of ours, counted.
        remarks: What became something else than it was, in words.
        opset: The file's version of the operators.
        producer: What wrote the file.
        metadata: Texts that it put into the file.
    """

    graph: Graph
    tensors: Mapping[str, Float32]
    input_scale: tuple[float, ...]
    input_shift: tuple[float, ...]
    operators: int
    folded: Mapping[str, int]
    remarks: tuple[str, ...]
    opset: int
    producer: str
    metadata: Mapping[str, str]

    @property
    def parameters(self) -> int:
        """How many numbers can learn."""
        return sum(int(np.prod(shape)) for shape in self.graph.parameters.values())


def import_onnx(data: bytes, size: tuple[int, int] | None = None) -> ImportedNetwork:
    """Read a classification network from the bytes of a .onnx file.

    Args:
        data: The file; nothing outside it is read.
        size: Height and width, needed where the file leaves them open.

    Raises:
        FormatError: the bytes are no model, damaged, or beyond the limits.
        ConversionError: a network that we cannot express; names the operator, what was found and expected.
    """
    model = read_onnx(data)
    _check_operators(model)
    walk = Walk.start(model, *_image(model, size))
    try:
        for node in model.nodes:
            if fold_constants(walk, node):
                continue
            if node.operator not in HANDLERS:
                raise node.error(
                    "is supported between constants only, and here it reads what the network computes"
                )
            HANDLERS[node.operator](walk, node)
        graph = _finish(walk)
    except ShapeError as error:
        raise ConversionError(f"onnx: {error}") from error
    return ImportedNetwork(
        graph=graph,
        tensors={name: walk.tensors[name] for name in (*graph.parameters, *graph.state)},
        input_scale=tuple(float(value) for value in walk.input_scale),
        input_shift=tuple(float(value) for value in walk.input_shift),
        operators=len(model.nodes),
        folded=dict(sorted(walk.folded.items())),
        remarks=tuple(walk.remarks),
        opset=model.opset,
        producer=model.producer,
        metadata=model.metadata,
    )


def _check_operators(model: OnnxModel) -> None:
    """Refuse a file with operators nobody here knows, all of them named at once."""
    unknown = [node for node in model.nodes if node.operator not in HANDLERS and node.operator not in FOLDERS]
    if not unknown:
        return
    if any(word in node.operator for node in unknown for word in _QUANTIZED):
        raise ConversionError(
            f"onnx: {unknown[0].label}: the model is quantized already; import the float32 model and give "
            "photos to --calibrate"
        )
    others = sorted({node.operator[:80] for node in unknown} - {unknown[0].operator})
    also = f" (also: {', '.join(others[:20])})" if others else ""
    raise ConversionError(
        f"onnx: {unknown[0].label[:200]}: operator not supported{also}; supported are {', '.join(SUPPORTED)}"
    )


def _image(model: OnnxModel, size: tuple[int, int] | None) -> tuple[Shape, bool]:
    """Height, width and channels of the input, and whether the file has its channels last."""
    last = _channels_last(model)
    _, *axes = model.input_shape
    height, width, channels = axes if last else (axes[1], axes[2], axes[0])
    if size is not None:
        if (height or size[0], width or size[1]) != size:
            raise ConversionError(
                f"onnx: input '{model.input}' is {height} x {width}, asked for {size[0]} x {size[1]}"
            )
        height, width = size
    if height is None or width is None or channels is None:
        raise ConversionError(
            f"onnx: input '{model.input}' leaves its size open: {axes}; give it with --size, or export the "
            "model with a fixed height, width and number of channels"
        )
    shape = (height, width, channels)
    if max(shape) > MAX_EXTENT or (model.input_shape[0] or 1) > MAX_EXTENT:
        raise ConversionError(
            f"onnx: input '{model.input}' is {shape}, expected at most {MAX_EXTENT} each way"
        )
    return shape, last


def _channels_last(model: OnnxModel) -> bool:
    """Whether the input is ``(N, H, W, C)``, as TensorFlow has it.

    What reads the image says so: convolutions and pools have channels first, a Transpose in front of them
    is TensorFlow's. Where the image is flattened at once, an axis of 1 or 3 is taken for the channels.
    """
    images = {model.input}
    for node in model.nodes:
        if not images.intersection(node.inputs):
            continue
        if node.operator == "Transpose":
            return node.integers("perm") == (0, 3, 1, 2)
        if node.operator in _CHANNELS_FIRST:
            return False
        if node.operator not in _VALUE_BY_VALUE:
            break
        images.update(node.outputs)
    return model.input_shape[3] in (1, 3) and model.input_shape[1] not in (1, 3)


def _finish(walk: Walk) -> Graph:
    """Our network up to the output, without the nodes that do not lead there."""
    found = walk.values.get(walk.model.output)
    if not isinstance(found, View):
        raise ConversionError(f"onnx: output '{walk.model.output[:80]}' does not depend on the input")
    output = walk.classes(None, found).node
    if output == walk.input_name:
        raise ConversionError("onnx: the output is the input; the network computes nothing")
    wanted = {output}
    for name, node in reversed(walk.nodes.items()):
        if name in wanted:
            wanted.update(node.inputs)
    kept = [node for name, node in walk.nodes.items() if name in wanted]
    return Graph((*(node for node in kept if node.name != output), walk.nodes[output]))
