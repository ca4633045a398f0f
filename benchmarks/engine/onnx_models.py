"""Writes ``float.onnx`` and ``int8.onnx`` beside a network's other files, with torch and ONNX Runtime.

``python -m benchmarks.engine.onnx_models JSON``, by the peers' interpreter. The int8 form has unsigned
activations and signed weights, a scale per channel, and ranges observed on the images that ours were
observed on: what ONNX Runtime's and OpenVINO's kernels are fastest with.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.engine.job import Job
from benchmarks.engine.torch_job import build


def write(job: Job) -> None:
    """Export and quantize."""
    torch = import_module("torch")
    quantization = import_module("onnxruntime.quantization")
    shapes = import_module("onnxruntime.quantization.shape_inference")
    side, plain, prepared = job.net["side"], job.path("float.onnx"), job.path("prepared.onnx")
    torch.onnx.export(
        build(job).eval(), (torch.zeros(1, job.net["channels"], side, side),), plain,
        input_names=["x"], output_names=["y"], opset_version=17, dynamo=False,
    )  # fmt: skip
    shapes.quant_pre_process(plain, prepared)
    images = np.ascontiguousarray(job.array("calibration").transpose(0, 3, 1, 2))
    reader: Any = type("Images", (quantization.CalibrationDataReader,), {"get_next": _next_of(images)})
    quantization.quantize_static(
        prepared, job.path("int8.onnx"), reader(), quant_format=quantization.QuantFormat.QDQ,
        per_channel=True, activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip


def _next_of(images: Any) -> Any:
    """The reader's one method: an input by name, and None at the end."""
    left: Iterator[Any] = iter(images)

    def get_next(_self: object) -> dict[str, Any] | None:
        image = next(left, None)
        return None if image is None else {"x": image[None]}

    return get_next


if __name__ == "__main__":
    write(Job(**json.loads(sys.argv[1])))
