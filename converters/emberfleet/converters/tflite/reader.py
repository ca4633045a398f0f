"""What a .tflite file holds, read for `emberfleet inspect`: any file, ours or not."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emberfleet.converters.tflite.flatbuffer import FILE_IDENTIFIER
from emberfleet.converters.tflite.metadata import ENTRY
from emberfleet.converters.tflite.metadata_reader import TfliteMetadata, read_metadata
from emberfleet.core.errors import FormatError

MAX_ITEMS = 1 << 16
"""Most tensors, operators, buffers or axes looked at: counts from outside bound no loop."""


@dataclass(frozen=True, slots=True)
class TensorSummary:
    """An input or output: shape with the batch, element type, and its quantization where it has one."""

    name: str
    shape: tuple[int, ...]
    type: str
    scale: float | None
    zero_point: int | None


@dataclass(frozen=True, slots=True)
class TfliteSummary:
    """The contents of a .tflite in figures."""

    version: int
    description: str
    bytes: int
    constant_bytes: int
    tensors: int
    operators: Mapping[str, int]
    inputs: tuple[TensorSummary, ...]
    outputs: tuple[TensorSummary, ...]
    metadata: TfliteMetadata | None


def summarize_tflite(data: bytes) -> TfliteSummary:
    """Read the first subgraph of a .tflite.

    Raises:
        FormatError: not a .tflite, or a damaged one.
    """
    if data[4:8] != FILE_IDENTIFIER:
        raise FormatError("not a .tflite file: bytes 4 to 8 are not 'TFL3'")
    try:
        return _summarize(data)
    except (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise FormatError(f".tflite: damaged: {type(error).__name__}: {error}") from error


def _summarize(data: bytes) -> TfliteSummary:
    import tflite

    model: Any = tflite.Model.GetRootAs(data, 0)
    graph: Any = model.Subgraphs(0)
    names = {code: name for name, code in vars(tflite.BuiltinOperator).items() if not name.startswith("_")}
    codes = []
    for index in range(_bounded(model.OperatorCodesLength())):
        entry = model.OperatorCodes(index)
        code = max(entry.BuiltinCode(), entry.DeprecatedBuiltinCode())
        codes.append(names.get(code, f"operator {code}"))
    operators = Counter(
        codes[graph.Operators(index).OpcodeIndex()] for index in range(_bounded(graph.OperatorsLength()))
    )
    return TfliteSummary(
        version=int(model.Version()),
        description=_text(model.Description()),
        bytes=len(data),
        constant_bytes=sum(
            _bounded(model.Buffers(index).DataLength(), len(data))
            for index in range(_bounded(model.BuffersLength()))
        ),
        tensors=_bounded(graph.TensorsLength()),
        operators=dict(sorted(operators.items())),
        inputs=tuple(_tensor(graph, graph.Inputs(i)) for i in range(_bounded(graph.InputsLength()))),
        outputs=tuple(_tensor(graph, graph.Outputs(i)) for i in range(_bounded(graph.OutputsLength()))),
        metadata=_metadata(model, data),
    )


def _metadata(model: Any, data: bytes) -> TfliteMetadata | None:
    for index in range(_bounded(model.MetadataLength())):
        entry = model.Metadata(index)
        if entry.Name() == ENTRY.encode():
            if not 0 <= entry.Buffer() < model.BuffersLength():
                raise ValueError(f"metadata in buffer {entry.Buffer()} of {model.BuffersLength()}")
            buffer = model.Buffers(entry.Buffer())
            _bounded(buffer.DataLength(), len(data))
            content = buffer.DataAsNumpy()
            return None if isinstance(content, int) else read_metadata(content.tobytes(), data)
    return None


def _tensor(graph: Any, index: int) -> TensorSummary:
    import tflite

    tensor = graph.Tensors(index)
    types = {code: name for name, code in vars(tflite.TensorType).items() if not name.startswith("_")}
    quantization = tensor.Quantization()
    per_tensor = quantization is not None and quantization.ScaleLength() == 1
    return TensorSummary(
        name=_text(tensor.Name()),
        shape=tuple(int(tensor.Shape(axis)) for axis in range(_bounded(tensor.ShapeLength()))),
        type=types.get(tensor.Type(), f"type {tensor.Type()}").lower(),
        scale=float(quantization.Scale(0)) if per_tensor else None,
        zero_point=int(quantization.ZeroPoint(0)) if per_tensor and quantization.ZeroPointLength() else None,
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def _bounded(count: int, limit: int = MAX_ITEMS) -> int:
    if not 0 <= count <= limit:
        raise ValueError(f"a count of {count}")
    return count
