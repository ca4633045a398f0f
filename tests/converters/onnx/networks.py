"""Small .onnx files built operator by operator, and what ONNX Runtime makes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from emberfleet.converters.onnx.importer import ImportedNetwork, import_onnx
from emberfleet.core.arrays import Array, Float32
from emberfleet.engine.selection import choose_backend

ALLOWED_ERROR = 1e-4
"""Relative to the largest score: what issue 4 asks for. Every single operator is far below it."""
ONE_OPERATOR_ERROR = 5e-6


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """An operator; names separated by spaces, ``-`` for one that is left out."""
    read, given = ([name if name != "-" else "" for name in text.split()] for text in (inputs, outputs))
    return helper.make_node(operator, read, given, f"{operator}_{given[0]}", **attributes)


def model(
    nodes: Sequence[NodeProto],
    shape: Sequence[int | str | None],
    constants: Mapping[str, Array] | None = None,
    opset: int = 17,
    ends: tuple[str, str] = ("x", "y"),
) -> bytes:
    """A file with one input `x` and one output `y`."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(ends[0], TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(ends[1], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in (constants or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(made.SerializeToString())


def flattened(image: str) -> list[NodeProto]:
    """An image ``(N, C, H, W)`` as scores `y` in the order in which our tensors lie."""
    return [
        node("Transpose", image, "last", perm=[0, 2, 3, 1]),
        node("Flatten", "last", "y", axis=1),
    ]


def run(data: bytes, x: Float32, optimize: bool = True) -> Float32:
    """The first output of ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    result: Float32 = session.run(None, {session.get_inputs()[0].name: x})[0]
    return result


def ours(network: ImportedNetwork, x: Float32, backend: str = "numpy") -> Float32:
    """What our engine makes of images ``(N, H, W, C)``, its preprocessing included."""
    scale, shift = (np.array(v, np.float32) for v in (network.input_scale, network.input_shift))
    predictor = choose_backend(backend).predictor(network.graph, network.tensors, len(x))
    return predictor.run(x * scale + shift)


def images(count: int, shape: Sequence[int], seed: int = 0) -> Float32:
    """Values around zero."""
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def error(found: Float32, expected: Float32) -> float:
    """The largest difference, relative to the largest value."""
    assert found.size == expected.size
    return float(np.abs(found.ravel() - expected.ravel()).max() / max(np.abs(expected).max(), 1e-6))


def check_same(
    data: bytes, channels_last: bool = False, allowed: float = ONE_OPERATOR_ERROR
) -> ImportedNetwork:
    """Import a file and hold our scores to those of ONNX Runtime."""
    network = import_onnx(data)
    x = images(2, network.graph.input.shape)
    given = x if channels_last else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    assert error(ours(network, x), run(data, given)) <= allowed
    return network


def weights(*shape: int, seed: int = 1) -> Float32:
    """Values around zero that keep sums near one."""
    values = np.random.default_rng(seed).normal(size=shape) / math.sqrt(math.prod(shape[1:]))
    return np.asarray(values, np.float32)
