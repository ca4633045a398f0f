"""The .tflite in Google's runtime, the .onnx in ONNX Runtime."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np

from emberfleet.core.arrays import Array
from tests.targets.subject import Answer, Subject, UnavailableError

FLOAT_LIMIT = 1e-4
"""Of real numbers from the reference, as a share of the largest: sums in another order."""
HALF_LIMIT = 1e-2
"""The same where weights have the eleven bits of float16."""
ONE_STEP = 1
"""Of int8 logits: XNNPACK and ONNX Runtime rescale in floating point."""


def tflite_float32(subject: Subject) -> list[Answer]:
    """float32, as LiteRT runs it on a device."""
    path = subject.convert("tflite-float", "digits-float32.tflite")
    found = lite(path, subject.x, reference=False)
    return [Answer(path, _lite_name(), subject.float_agreement(found, subject.probabilities, FLOAT_LIMIT))]


def tflite_float16(subject: Subject) -> list[Answer]:
    """Weights in float16."""
    path = subject.convert("tflite-float16", "digits-float16.tflite")
    found = lite(path, subject.x, reference=False)
    return [Answer(path, _lite_name(), subject.float_agreement(found, subject.probabilities, HALF_LIMIT))]


def tflite_int8(subject: Subject) -> list[Answer]:
    """int8 throughout: by the reference kernels, and as a device runs it."""
    path = subject.convert("tflite", "digits-int8.tflite")
    exact = lite(path, subject.quantized, reference=True)
    fast = lite(path, subject.quantized, reference=False)
    return [
        Answer(path, f"{_lite_name()}, reference kernels", subject.int8_agreement(exact, 0)),
        Answer(path, f"{_lite_name()}, XNNPACK", subject.int8_agreement(fast, ONE_STEP)),
    ]


def onnx_float32(subject: Subject) -> list[Answer]:
    """float32 in ONNX Runtime."""
    path = subject.convert("onnx", "digits-float32.onnx")
    found = onnx(path, subject.x)
    agreement = subject.float_agreement(found, subject.probabilities, FLOAT_LIMIT)
    return [Answer(path, _onnx_name(), agreement)]


def onnx_int8(subject: Subject) -> list[Answer]:
    """QuantizeLinear and DequantizeLinear around every operator, with our scales."""
    path = subject.convert("onnx-int8", "digits-int8.onnx")
    found = onnx(path, subject.x)
    codes = subject.network.output_tensor.params.quantize(found)
    return [Answer(path, _onnx_name(), subject.int8_agreement(codes, ONE_STEP))]


def lite(path: Path, x: Array, reference: bool) -> Array:
    """The output of a .tflite for a batch.

    Raises:
        UnavailableError: LiteRT is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise UnavailableError("ai-edge-litert is not installed") from error
    resolver = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
    it = Interpreter(str(path), num_threads=1, experimental_op_resolver_type=resolver)
    index = it.get_input_details()[0]["index"]
    it.resize_tensor_input(index, x.shape)
    it.allocate_tensors()
    it.set_tensor(index, x)
    it.invoke()
    output: Array = it.get_tensor(it.get_output_details()[0]["index"])
    return output


def onnx(path: Path, x: Array) -> Array:
    """The output of a .onnx for a batch of NHWC.

    Raises:
        UnavailableError: ONNX Runtime is not installed.
    """
    try:
        from onnxruntime import InferenceSession
    except ImportError as error:
        raise UnavailableError("onnxruntime is not installed") from error
    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    output: Array = session.run(None, {name: np.ascontiguousarray(x.transpose(0, 3, 1, 2))})[0]
    return output


def _lite_name() -> str:
    return f"ai-edge-litert {version('ai-edge-litert')}"


def _onnx_name() -> str:
    return f"onnxruntime {version('onnxruntime')}"
