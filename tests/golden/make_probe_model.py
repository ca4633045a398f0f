"""Makes the smallest .tflite there is, one RELU over four numbers, that `emberfleet doctor` runs.

    python tests/golden/make_probe_model.py edge/emberfleet/runtime/probe.tflite

It comes ready-made so that a device needs no converter to test its TFLite runtime.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import tflite


def make_probe_model() -> bytes:
    """A model file of schema version 3 with one float32 input and one output, both of shape (1, 4)."""
    builder = flatbuffers.Builder(512)
    buffers = _offsets(builder, tflite.ModelStartBuffersVector, [_table(builder, "Buffer", {})])
    tensors = [_tensor(builder, name) for name in ("x", "y")]
    inputs, outputs = (builder.CreateNumpyVector(np.array([index], np.int32)) for index in (0, 1))
    relu = _table(builder, "Operator", {"OpcodeIndex": 0, "Inputs": inputs, "Outputs": outputs})
    graph = _table(
        builder,
        "SubGraph",
        {
            "Tensors": _offsets(builder, tflite.SubGraphStartTensorsVector, tensors),
            "Inputs": inputs,
            "Outputs": outputs,
            "Operators": _offsets(builder, tflite.SubGraphStartOperatorsVector, [relu]),
        },
    )
    kind = tflite.BuiltinOperator.RELU
    code = _table(builder, "OperatorCode", {"DeprecatedBuiltinCode": kind, "Version": 1, "BuiltinCode": kind})
    model = _table(
        builder,
        "Model",
        {
            "Version": 3,
            "OperatorCodes": _offsets(builder, tflite.ModelStartOperatorCodesVector, [code]),
            "Subgraphs": _offsets(builder, tflite.ModelStartSubgraphsVector, [graph]),
            "Buffers": buffers,
        },
    )
    builder.Finish(model, b"TFL3")
    return bytes(builder.Output())


def _tensor(builder: Any, name: str) -> int:
    shape, text = builder.CreateNumpyVector(np.array([1, 4], np.int32)), builder.CreateString(name)
    fields = {"Shape": shape, "Type": tflite.TensorType.FLOAT32, "Buffer": 0, "Name": text}
    return _table(builder, "Tensor", fields)


def _table(builder: Any, name: str, fields: Mapping[str, int]) -> int:
    getattr(tflite, f"{name}Start")(builder)
    for field, value in fields.items():
        getattr(tflite, f"{name}Add{field}")(builder, value)
    return int(getattr(tflite, f"{name}End")(builder))


def _offsets(builder: Any, start: Callable[[Any, int], int], items: list[int]) -> int:
    start(builder, len(items))
    for item in reversed(items):
        builder.PrependUOffsetTRelative(item)
    return int(builder.EndVector())


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(make_probe_model())
