"""The int8 network as JSON and tensors, and back: what a bundle carries for numpy and OpenCL.

Reading trusts nothing: every shape is inferred again from the operations, so that a kernel can
never be told to read past an array.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from emberfleet.core.arrays import Array
from emberfleet.core.errors import EmberError, FormatError
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
    IntegerTensor,
    IntegerWindowAveragePool,
)
from emberfleet.core.nodes import (
    AveragePool,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    GlobalAveragePool,
    MaxPool,
    Shape,
)
from emberfleet.core.quantization import QuantParams

MAX_OPS = 4096
MAX_EXTENT = 1 << 16
MAX_ELEMENTS = 1 << 28

_CONV_ARRAYS: Mapping[str, type[np.generic]] = {
    "weights": np.int8,
    "weight_scales": np.float32,
    "bias": np.int32,
    "multiplier": np.int32,
    "shift": np.int32,
}

Document: TypeAlias = Mapping[str, Any]
_KINDS: Mapping[type[Any], str] = {
    IntegerConv: "conv",
    IntegerDepthwiseConv: "depthwise_conv",
    IntegerMaxPool: "max_pool",
    IntegerAveragePool: "average_pool",
    IntegerWindowAveragePool: "window_average_pool",
    IntegerConcat: "concat",
    IntegerAdd: "add",
    IntegerRelu: "relu",
    IntegerReshape: "reshape",
}

_SAME_SCALE = (IntegerMaxPool, IntegerAveragePool, IntegerWindowAveragePool, IntegerConcat, IntegerReshape)


def encode_network(network: IntegerNetwork) -> tuple[str, dict[str, Array]]:
    """The network as JSON text and the arrays of its convolutions, by ``output/part``."""
    ops: list[dict[str, Any]] = []
    arrays: dict[str, Array] = {}
    for op in network.ops:
        entry: dict[str, Any] = {"kind": _KINDS[type(op)], "output": op.output, "inputs": list(op.inputs)}
        if isinstance(op, (IntegerConv, IntegerDepthwiseConv)):
            entry |= {"stride": list(op.stride), "padding": list(op.padding), "relu": op.relu}
            arrays |= {f"{op.output}/{part}": getattr(op, part) for part in _CONV_ARRAYS}
            if isinstance(op, IntegerDepthwiseConv):
                entry["depth_multiplier"] = op.depth_multiplier
        elif isinstance(op, (IntegerMaxPool, IntegerWindowAveragePool)):
            entry |= {"kernel": list(op.kernel), "stride": list(op.stride), "padding": list(op.padding)}
        elif isinstance(op, IntegerAdd):
            entry |= {"multipliers": list(op.multipliers), "shifts": list(op.shifts), "relu": op.relu}
        elif isinstance(op, IntegerRelu):
            entry |= {"multiplier": op.multiplier, "shift": op.shift}
        ops.append(entry)
    tensors = [
        {"name": name, "shape": list(t.shape), "scale": t.params.scale, "zero_point": t.params.zero_point}
        for name, t in network.tensors.items()
    ]
    document = {"format": 1, "input": network.input, "output": network.output, "tensors": tensors, "ops": ops}
    return json.dumps(document, indent=1), arrays


def decode_network(text: str | bytes, arrays: Mapping[str, Array]) -> IntegerNetwork:
    """Read a network back.

    Raises:
        FormatError: anything that is not a complete and consistent int8 network.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"int8 network: not JSON: {error}") from error
    try:
        network = _read(document, arrays)
        _check_shapes(network)
    except FormatError:
        raise
    except (EmberError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise FormatError(f"int8 network: {type(error).__name__}: {error}") from error
    return network


def _read(document: object, arrays: Mapping[str, Array]) -> IntegerNetwork:
    if not isinstance(document, dict) or document.get("format") != 1:
        raise FormatError("int8 network: expected a JSON object with format 1")
    entries, declared = document["ops"], document["tensors"]
    if not isinstance(entries, list) or not isinstance(declared, list):
        raise FormatError("int8 network: 'ops' and 'tensors' are lists")
    if len(entries) > MAX_OPS or len(declared) > MAX_OPS + 1:
        raise FormatError(f"int8 network: more than {MAX_OPS} operations")
    tensors: dict[str, IntegerTensor] = {}
    for entry in declared:
        shape = _whole_numbers(entry["shape"], None, 1, MAX_EXTENT)
        if not 1 <= len(shape) <= 3 or math.prod(shape) > MAX_ELEMENTS:
            raise FormatError(f"int8 network: tensor {entry['name']!r} has shape {shape}")
        params = QuantParams(_real(entry["scale"]), _whole(entry["zero_point"], -128, 127))
        tensors[_text(entry["name"])] = IntegerTensor(shape, params)
    ops = tuple(_READERS[_text(entry["kind"])](entry, arrays) for entry in entries)
    return IntegerNetwork(_text(document["input"]), _text(document["output"]), tensors, ops)


def _read_conv(entry: Document, arrays: Mapping[str, Array]) -> IntegerOp:
    output = _text(entry["output"])
    parts: dict[str, Any] = {}
    for part, dtype in _CONV_ARRAYS.items():
        array = arrays[f"{output}/{part}"]
        if array.dtype != dtype or array.ndim != (4 if part == "weights" else 1):
            raise FormatError(f"int8 network: '{output}/{part}' is {array.dtype} {array.shape}")
        parts[part] = array
    channels = parts["weights"].shape[0]
    if any(len(parts[part]) != channels for part in _CONV_ARRAYS):
        raise FormatError(f"int8 network: conv '{output}' has parts of different lengths")
    if not (parts["multiplier"] >= 0).all() or not ((parts["shift"] >= -31) & (parts["shift"] <= 30)).all():
        raise FormatError(f"int8 network: conv '{output}' has multipliers out of range")
    if (parts["weights"] == -128).any() or not (parts["weight_scales"] > 0).all():
        raise FormatError(f"int8 network: conv '{output}' has weights or scales out of range")
    common = {
        "output": output,
        "input": _inputs(entry, 1)[0],
        **parts,
        "stride": _window(entry["stride"]),
        "padding": _padding(entry["padding"]),
        "relu": _flag(entry["relu"]),
    }
    if entry["kind"] == _KINDS[IntegerConv]:
        return IntegerConv(**common)
    return IntegerDepthwiseConv(depth_multiplier=_whole(entry["depth_multiplier"], 1, MAX_EXTENT), **common)


def _read_pool(entry: Document, arrays: Mapping[str, Array]) -> IntegerOp:
    make = IntegerMaxPool if entry["kind"] == _KINDS[IntegerMaxPool] else IntegerWindowAveragePool
    kernel, stride = _window(entry["kernel"]), _window(entry["stride"])
    return make(_text(entry["output"]), _inputs(entry, 1)[0], kernel, stride, _padding(entry["padding"]))


def _read_add(entry: Document, arrays: Mapping[str, Array]) -> IntegerOp:
    first, second = _inputs(entry, 2)
    m = _whole_numbers(entry["multipliers"], 3, 0, (1 << 31) - 1)
    s = _whole_numbers(entry["shifts"], 3, -31, 0)
    return IntegerAdd(
        _text(entry["output"]), (first, second), (m[0], m[1], m[2]), (s[0], s[1], s[2]), _flag(entry["relu"])
    )


def _read_relu(entry: Document, arrays: Mapping[str, Array]) -> IntegerOp:
    multiplier, shift = _whole(entry["multiplier"], 0, (1 << 31) - 1), _whole(entry["shift"], -31, 30)
    return IntegerRelu(_text(entry["output"]), _inputs(entry, 1)[0], multiplier, shift)


_READERS: Mapping[str, Callable[[Document, Mapping[str, Array]], IntegerOp]] = {
    "conv": _read_conv,
    "depthwise_conv": _read_conv,
    "max_pool": _read_pool,
    "window_average_pool": _read_pool,
    "add": _read_add,
    "relu": _read_relu,
    "average_pool": lambda entry, _: IntegerAveragePool(_text(entry["output"]), _inputs(entry, 1)[0]),
    "reshape": lambda entry, _: IntegerReshape(_text(entry["output"]), _inputs(entry, 1)[0]),
    "concat": lambda entry, _: IntegerConcat(_text(entry["output"]), _inputs(entry, None)),
}


def _check_shapes(network: IntegerNetwork) -> None:
    """Every tensor is written once, before it is read, with the shape its operation gives."""
    written = {network.input}
    if len(network.input_tensor.shape) != 3:
        raise FormatError(f"int8 network: input has shape {network.input_tensor.shape}, expected (H, W, C)")
    for op in network.ops:
        shapes: list[Shape] = []
        for name in op.inputs:
            if name not in written:
                raise FormatError(f"int8 network: '{op.output}' reads '{name}' before it is written")
            shapes.append(network.tensors[name].shape)
        if op.output in written:
            raise FormatError(f"int8 network: '{op.output}' is written twice")
        written.add(op.output)
        found, expected = network.tensors[op.output].shape, _output_shape(op, shapes)
        if expected is not None and found != expected:
            raise FormatError(f"int8 network: '{op.output}' has shape {found}, expected {expected}")
        if expected is None and math.prod(found) != math.prod(shapes[0]):
            raise FormatError(f"int8 network: '{op.output}' of shape {found} cannot hold {shapes[0]}")
        params = network.tensors[op.output].params
        if isinstance(op, _SAME_SCALE) and any(network.tensors[name].params != params for name in op.inputs):
            raise FormatError(f"int8 network: '{op.output}' is not on the scale of its inputs")
    if network.output not in written or len(network.output_tensor.shape) > 2:
        raise FormatError(f"int8 network: output '{network.output}' is not written or not (K,) or (P, K)")


def _output_shape(op: IntegerOp, shapes: list[Shape]) -> Shape | None:
    """The shape an operation gives, by the same rules as the graph's nodes; None for a reshape."""
    given = tuple(shapes)
    if isinstance(op, IntegerConv):
        o, kh, kw, c = op.weights.shape
        if len(shapes[0]) != 3 or shapes[0][2] != c:
            raise FormatError(
                f"int8 network: conv '{op.output}' reads {shapes[0]}, its weights want {c} channels"
            )
        return Conv2D(op.output, op.inputs, o, (kh, kw), op.stride, op.padding).infer(given)
    if isinstance(op, IntegerDepthwiseConv):
        o, kh, kw, c = op.weights.shape
        if len(shapes[0]) != 3 or c != 1 or shapes[0][2] * op.depth_multiplier != o:
            raise FormatError(
                f"int8 network: depthwise conv '{op.output}' reads {shapes[0]}, its weights are "
                f"{op.weights.shape} for {op.depth_multiplier} outputs per channel"
            )
        node = DepthwiseConv2D(op.output, op.inputs, op.depth_multiplier, (kh, kw), op.stride, op.padding)
        return node.infer(given)
    if isinstance(op, IntegerWindowAveragePool):
        return AveragePool(op.output, op.inputs, op.kernel, op.stride, op.padding).infer(given)
    if isinstance(op, IntegerMaxPool):
        return MaxPool(op.output, op.inputs, op.kernel, op.stride, op.padding).infer(given)
    if isinstance(op, IntegerAveragePool):
        return GlobalAveragePool(op.output, op.inputs).infer(given)
    if isinstance(op, IntegerConcat):
        return Concat(op.output, op.inputs).infer(given)
    if isinstance(op, IntegerAdd) and shapes[0] != shapes[1]:
        raise FormatError(f"int8 network: add '{op.output}' sums {shapes[0]} and {shapes[1]}")
    return None if isinstance(op, IntegerReshape) else shapes[0]


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise FormatError(f"int8 network: found {value!r}, expected a name")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise FormatError(f"int8 network: found {value!r}, expected true or false")
    return value


def _real(value: object) -> float:
    if type(value) not in (int, float):
        raise FormatError(f"int8 network: found {value!r}, expected a number")
    return float(value)  # type: ignore[arg-type]


def _whole(value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise FormatError(f"int8 network: found {value!r}, expected a whole number from {low} to {high}")
    return value


def _whole_numbers(value: object, count: int | None, low: int, high: int) -> tuple[int, ...]:
    if not isinstance(value, list) or (count is not None and len(value) != count):
        raise FormatError(f"int8 network: found {value!r}, expected a list of {count or 'some'} numbers")
    return tuple(_whole(item, low, high) for item in value)


def _window(value: object) -> tuple[int, int]:
    first, second = _whole_numbers(value, 2, 1, MAX_EXTENT)
    return first, second


def _padding(value: object) -> tuple[int, int, int, int]:
    top, left, bottom, right = _whole_numbers(value, 4, 0, MAX_EXTENT)
    return top, left, bottom, right


def _inputs(entry: Document, count: int | None) -> tuple[str, ...]:
    value = entry["inputs"]
    if not isinstance(value, list) or (len(value) != count if count is not None else len(value) < 2):
        raise FormatError(f"int8 network: found inputs {value!r}, expected {count or 'two or more'}")
    return tuple(_text(item) for item in value)
