"""Running a .tflite in a test: with the reference kernels, or as a device does, with XNNPACK."""

from __future__ import annotations

import pytest

from emberfleet.core.arrays import Array


def run_tflite(data: bytes, x: Array, reference: bool) -> Array:
    """The output for ``(N, H, W, C)``, the batch resized to N."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
    resolver = interpreter.OpResolverType
    it = interpreter.Interpreter(
        model_content=data,
        num_threads=1,
        experimental_op_resolver_type=resolver.BUILTIN_REF if reference else resolver.AUTO,
    )
    index = it.get_input_details()[0]["index"]
    it.resize_tensor_input(index, x.shape)
    it.allocate_tensors()
    it.set_tensor(index, x)
    it.invoke()
    output: Array = it.get_tensor(it.get_output_details()[0]["index"])
    return output
