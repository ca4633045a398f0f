"""The peers' inference runtimes as child processes: ``python -m benchmarks.engine.runtimes_job JSON``.

Variants: ``litert``, ``onnxruntime``, ``openvino``. LiteRT runs the files of our own writers, in int8 from
quantized pixels to quantized logits; the other two run ``.onnx`` files of `onnx_models`, float32 in and
out, in int8 too, where the rounding is part of the file.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks.engine.job import (
    FLOAT_TOLERANCE,
    INT8,
    QUANTIZED_TOLERANCE,
    Inference,
    Job,
    check_float,
    check_steps,
    serve_job,
)
from emberfleet.runtime.measuring import Work


def prepare(job: Job) -> Work:
    """Load the model."""
    if job.variant == "litert":
        return _litert(job)
    run = {"onnxruntime": _onnxruntime, "openvino": _openvino}[job.variant](job)
    tolerance = QUANTIZED_TOLERANCE if job.precision == INT8 else FLOAT_TOLERANCE
    return Inference(run, version(job.variant), check_float(run(), job.array("y"), tolerance))


def _litert(job: Job) -> Work:
    integer = job.precision == INT8
    module = import_module("ai_edge_litert.interpreter")
    path = job.path("int8.tflite" if integer else "float.tflite")
    interpreter = module.Interpreter(path, num_threads=job.threads)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    x = job.array("qx" if integer else "x")

    def run() -> Any:
        interpreter.set_tensor(source, x)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    error = check_steps(run(), job.array("qy"), 1) if integer else check_float(run(), job.array("y"))
    return Inference(run, version("ai-edge-litert"), error)


def _onnxruntime(job: Job) -> Callable[[], Any]:
    ort = import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = job.threads, 1
    session = ort.InferenceSession(_onnx(job), options, providers=["CPUExecutionProvider"])
    x = _channels_first(job)
    return lambda: session.run(None, {"x": x})[0]


def _openvino(job: Job) -> Callable[[], Any]:
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": job.threads, "NUM_STREAMS": 1}
    if job.precision != INT8:
        settings["INFERENCE_PRECISION_HINT"] = "f32"  # on a processor with AMX it would take bf16
    request = (
        import_module("openvino").Core().compile_model(_onnx(job), "CPU", settings).create_infer_request()
    )
    x = _channels_first(job)
    return lambda: request.infer({0: x}, share_inputs=True)[0]


def _onnx(job: Job) -> str:
    return job.path("int8.onnx" if job.precision == INT8 else "float.onnx")


def _channels_first(job: Job) -> Any:
    return np.ascontiguousarray(job.array("x").transpose(0, 3, 1, 2))


if __name__ == "__main__":
    serve_job(prepare)
