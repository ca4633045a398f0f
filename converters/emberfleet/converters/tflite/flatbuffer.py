"""How a `TfliteModel` lies in a file: the one place that speaks flatbuffers.

The bytes depend on the model alone. Data of constants is aligned to 16 bytes, as the schema's
``force_align`` asks. What is equal is written once: operator codes, strings, the data of constants
and, since flatbuffers may share a vector between tables, shapes, scales and zero points (8 bytes
per output channel and convolution otherwise).

Source: tensorflow/compiler/mlir/lite/schema/schema.fbs, version 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import flatbuffers
import numpy as np
import tflite

from emberfleet.converters.tflite.metadata import (
    ENTRY,
    LABELS_FILE,
    ModelCard,
    append_files,
    encode_metadata,
)
from emberfleet.converters.tflite.model import (
    OPTIONS_TABLES,
    TfliteModel,
    TfliteOperator,
    TfliteQuantization,
    TfliteTensor,
)
from emberfleet.core.arrays import Array

SCHEMA_VERSION = 3
FILE_IDENTIFIER = b"TFL3"
DATA_ALIGNMENT = 16
SIGNATURE_KEY = "serving_default"


def encode_model(model: TfliteModel, card: ModelCard | None = None) -> bytes:
    """The bytes of a .tflite file, with metadata and the labels behind it where there is a card."""
    if card is None:
        return _Encoder(model).run({})
    data = _Encoder(model).run({ENTRY: encode_metadata(card, model)})
    return append_files(data, {LABELS_FILE: card.labels_file})


class _Encoder:
    """Writes from the leaves to the root, as flatbuffers are built; `shared` remembers what was written."""

    def __init__(self, model: TfliteModel) -> None:
        self.model = model
        self.builder: Any = flatbuffers.Builder(1 << 16)
        self.shared: dict[tuple[str, bytes], int] = {}
        self.buffers: list[int] = [self._table("Buffer", {})]
        self.buffer_index: dict[bytes, int] = {}

    def run(self, metadata: Mapping[str, bytes]) -> bytes:
        model = self.model
        tensors = [self._tensor(tensor) for tensor in model.tensors]
        kinds = list(dict.fromkeys((op.kind, op.version) for op in model.operators))
        operators = [self._operator(op, kinds.index((op.kind, op.version))) for op in model.operators]
        subgraph = self._table(
            "SubGraph",
            {
                "Tensors": self._offsets(tensors),
                "Inputs": self._numbers([model.input], np.int32),
                "Outputs": self._numbers([model.output], np.int32),
                "Operators": self._offsets(operators),
            },
        )
        codes = [self._operator_code(kind.name, version) for kind, version in kinds]
        entries = [
            self._table("Metadata", {"Name": self._text(name), "Buffer": self._bytes(content)})
            for name, content in metadata.items()
        ]
        fields = {
            "Version": SCHEMA_VERSION,
            "OperatorCodes": self._offsets(codes),
            "Subgraphs": self._offsets([subgraph]),
            "Description": self._text(model.description),
            "Buffers": self._offsets(self.buffers),
            "SignatureDefs": self._offsets([self._signature()]),
        }
        if entries:
            fields["Metadata"] = self._offsets(entries)
        root = self._table("Model", fields)
        self.builder.Finish(root, FILE_IDENTIFIER)
        return bytes(self.builder.Output())

    def _tensor(self, tensor: TfliteTensor) -> int:
        fields = {
            "Shape": self._numbers(tensor.shape, np.int32),
            "Type": getattr(tflite.TensorType, tensor.type.name),
            "Buffer": self._buffer(tensor.data),
            "Name": self._text(tensor.name),
        }
        if tensor.quantization is not None:
            fields["Quantization"] = self._quantization(tensor.quantization)
        return self._table("Tensor", fields)

    def _quantization(self, quantization: TfliteQuantization) -> int:
        zero_points = np.full(len(quantization.scales), quantization.zero_point)
        fields = {
            "Scale": self._numbers(quantization.scales, np.float32),
            "ZeroPoint": self._numbers(zero_points, np.int64),
        }
        if quantization.axis:
            fields["QuantizedDimension"] = quantization.axis
        return self._table("QuantizationParameters", fields)

    def _operator(self, op: TfliteOperator, code: int) -> int:
        fields = {
            "OpcodeIndex": code,
            "Inputs": self._numbers(op.inputs, np.int32),
            "Outputs": self._numbers(op.outputs, np.int32),
        }
        table = OPTIONS_TABLES.get(op.kind)
        if table:
            fields["BuiltinOptions"] = self._table(table, op.options)
            fields["BuiltinOptionsType"] = getattr(tflite.BuiltinOptions, table)
        return self._table("Operator", fields)

    def _operator_code(self, name: str, version: int) -> int:
        code = getattr(tflite.BuiltinOperator, name)
        # All operators used here have codes below 127, where old and new readers look at one each.
        return self._table(
            "OperatorCode", {"DeprecatedBuiltinCode": code, "BuiltinCode": code, "Version": version}
        )

    def _signature(self) -> int:
        maps = [
            self._table("TensorMap", {"Name": self._text(name), "TensorIndex": index})
            for name, index in (("image", self.model.input), ("scores", self.model.output))
        ]
        return self._table(
            "SignatureDef",
            {
                "Inputs": self._offsets(maps[:1]),
                "Outputs": self._offsets(maps[1:]),
                "SignatureKey": self._text(SIGNATURE_KEY),
            },
        )

    def _buffer(self, data: Array | None) -> int:
        """Index of the buffer that holds `data`; 0 is the empty one."""
        if data is None:
            return 0
        return self._bytes(np.ascontiguousarray(data, data.dtype.newbyteorder("<")).tobytes())

    def _bytes(self, content: bytes) -> int:
        if content not in self.buffer_index:
            self.builder.StartVector(1, len(content), DATA_ALIGNMENT)
            start = self.builder.Head() - len(content)
            self.builder.head = start
            self.builder.Bytes[start : start + len(content)] = content
            table = self._table("Buffer", {"Data": int(self.builder.EndVector())})
            self.buffer_index[content] = len(self.buffers)
            self.buffers.append(table)
        return self.buffer_index[content]

    def _table(self, name: str, fields: Mapping[str, int | float]) -> int:
        """One table; an offset must have been written before."""
        getattr(tflite, f"{name}Start")(self.builder)
        for field, value in fields.items():
            getattr(tflite, f"{name}Add{field}")(self.builder, value)
        return int(getattr(tflite, f"{name}End")(self.builder))

    def _numbers(self, values: Iterable[Any], dtype: type[np.generic]) -> int:
        """A vector of numbers, shared with every equal one."""
        array = np.asarray(list(values), dtype)
        key = (array.dtype.str, array.tobytes())
        if key not in self.shared:
            self.shared[key] = int(self.builder.CreateNumpyVector(array))
        return self.shared[key]

    def _text(self, text: str) -> int:
        return int(self.builder.CreateSharedString(text))

    def _offsets(self, tables: list[int]) -> int:
        self.builder.StartVector(4, len(tables), 4)
        for table in reversed(tables):
            self.builder.PrependUOffsetTRelative(table)
        return int(self.builder.EndVector())
