"""Operators between constants alone, computed once: what exporters write around a Reshape."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np

from emberfleet.converters.onnx.file import ELEMENT_TYPES, OnnxNode
from emberfleet.converters.onnx.walk import Walk
from emberfleet.core.arrays import Array

Folder: TypeAlias = Callable[[OnnxNode, Sequence[Array]], Array]
TYPES_BY_NUMBER: Final[Mapping[int, str]] = {
    1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64",
}  # fmt: skip
assert set(TYPES_BY_NUMBER.values()) == set(ELEMENT_TYPES.values())


def fold_constants(walk: Walk, node: OnnxNode) -> bool:
    """Compute an operator whose inputs are all constants.

    Returns:
        Whether it was one.

    Raises:
        ConversionError: an attribute or a combination of shapes that is not supported.
        FormatError: the result would be too large.
    """
    values = [walk.values.get(name) for name in node.inputs if name]
    inputs = [value for value in values if isinstance(value, np.ndarray)]
    if node.operator not in FOLDERS or len(inputs) != len(values):
        return False
    try:
        walk.reserve(_result_size(node, inputs), node.label)
        with np.errstate(all="ignore"):
            result = FOLDERS[node.operator](node, inputs)
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        shapes = ", ".join(str(value.shape) for value in inputs)
        raise node.error(f"does not fit its constants of shape {shapes}: {error}") from error
    walk.folded["constants"] += 1
    walk.give(node, np.asarray(result))
    return True


def _result_size(node: OnnxNode, inputs: Sequence[Array]) -> int:
    """An upper bound for the number of values of the result, found before any is made."""
    if node.operator == "ConstantOfShape":
        return math.prod(_sizes(inputs[0]))
    if node.operator == "Expand":
        return math.prod(np.broadcast_shapes(inputs[0].shape, _sizes(inputs[1])))
    if node.operator == "Gather":
        data, indices = inputs
        return data.size * indices.size
    if node.operator in ELEMENTWISE:
        return math.prod(np.broadcast_shapes(*(value.shape for value in inputs)))
    return sum(value.size for value in inputs)


def _sizes(values: Array) -> tuple[int, ...]:
    """A shape that is given as a constant."""
    return tuple(int(extent) for extent in values.ravel())


def _constant(node: OnnxNode, _: Sequence[Array]) -> Array:
    if len(node.attributes) != 1:
        raise node.error(f"has {len(node.attributes)} attributes, expected its value")
    (name, value), *_rest = node.attributes.items()
    kinds = {
        "value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64
    }  # fmt: skip
    if name == "value" and isinstance(value, np.ndarray):
        return value
    if name not in kinds:
        raise node.error(f"attribute '{name}' is not supported, expected value or one of {', '.join(kinds)}")
    return np.array(value, kinds[name])


def _gather(node: OnnxNode, inputs: Sequence[Array]) -> Array:
    node.allow("axis")
    return np.take(inputs[0], inputs[1].astype(np.int64), axis=node.integer("axis", 0))


def _concat(node: OnnxNode, inputs: Sequence[Array]) -> Array:
    node.allow("axis")
    return np.concatenate(list(inputs), axis=node.integer("axis", 0))


def _cast(node: OnnxNode, inputs: Sequence[Array]) -> Array:
    node.allow("to", "saturate")
    kind = TYPES_BY_NUMBER.get(node.integer("to", 0))
    if kind is None:
        raise node.error(f"casts to type {node.integer('to', 0)}, expected of: {', '.join(ELEMENT_TYPES)}")
    return inputs[0].astype(kind)


def _slice(node: OnnxNode, inputs: Sequence[Array]) -> Array:
    node.allow()
    data, starts, ends = inputs[:3]
    axes = inputs[3].ravel() if len(inputs) > 3 else np.arange(len(starts))
    steps = inputs[4].ravel() if len(inputs) > 4 else np.ones(len(starts), np.int64)
    cut: list[slice] = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts.ravel(), ends.ravel(), steps, strict=True):
        behind = int(end) if step > 0 or end >= -data.shape[int(axis)] else None
        cut[int(axis)] = slice(int(start), behind, int(step))
    return np.asarray(data[tuple(cut)])


def _reshape(node: OnnxNode, inputs: Sequence[Array]) -> Array:
    node.allow("allowzero")
    data = inputs[0]
    wanted = list(_sizes(inputs[1]))
    if not node.integer("allowzero", 0):
        wanted = [data.shape[index] if size == 0 else size for index, size in enumerate(wanted)]
    return data.reshape(wanted)


def _transpose(node: OnnxNode, inputs: Sequence[Array]) -> Array:
    node.allow("perm")
    return np.asarray(np.transpose(inputs[0], node.integers("perm")))


def _axes(node: OnnxNode, inputs: Sequence[Array]) -> tuple[int, ...] | None:
    node.allow("axes")
    return _sizes(inputs[1]) if len(inputs) > 1 else node.integers("axes")


def _squeeze(node: OnnxNode, inputs: Sequence[Array]) -> Array:
    return np.squeeze(inputs[0], _axes(node, inputs))


def _unsqueeze(node: OnnxNode, inputs: Sequence[Array]) -> Array:
    return np.expand_dims(inputs[0], _axes(node, inputs) or ())


def _constant_of_shape(node: OnnxNode, inputs: Sequence[Array]) -> Array:
    node.allow("value")
    value = node.attributes.get("value", np.zeros(1, np.float32))
    if not isinstance(value, np.ndarray) or value.size != 1:
        raise node.error("its value is not one number")
    return np.full(_sizes(inputs[0]), value.ravel()[0])


def _expand(node: OnnxNode, inputs: Sequence[Array]) -> Array:
    node.allow()
    return np.broadcast_to(inputs[0], np.broadcast_shapes(inputs[0].shape, _sizes(inputs[1]))).copy()


def _cast_like(node: OnnxNode, inputs: Sequence[Array]) -> Array:
    node.allow("saturate")
    return inputs[0].astype(inputs[1].dtype)


def _product(node: OnnxNode, inputs: Sequence[Array]) -> Array:
    node.allow("axes", "keepdims", "noop_with_empty_axes")
    axes = _sizes(inputs[1]) if len(inputs) > 1 else node.integers("axes")
    return np.asarray(np.prod(inputs[0], axis=axes, keepdims=bool(node.integer("keepdims", 1))))


def _shape(node: OnnxNode, inputs: Sequence[Array]) -> Array:
    node.allow("start", "end")
    sizes = inputs[0].shape
    return np.array(sizes[node.integer("start", 0) : node.integer("end", len(sizes))], np.int64)


def _divide(first: Array, second: Array) -> Array:
    """Integers divide towards zero, as in C."""
    if np.issubdtype(first.dtype, np.integer):
        if not second.all():
            raise ValueError("division by zero")
        quotient = np.sign(first) * np.sign(second) * (np.abs(first) // np.abs(second))
        return np.asarray(quotient, first.dtype)
    return np.asarray(np.divide(first, second), first.dtype)


def _elementwise(compute: Callable[..., Array]) -> Folder:
    def fold(node: OnnxNode, inputs: Sequence[Array]) -> Array:
        node.allow()
        return np.asarray(compute(*inputs))

    return fold


ELEMENTWISE: Final[Mapping[str, Callable[..., Array]]] = {
    "Identity": lambda x: x,
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _divide,
    "Neg": np.negative,
    "Sqrt": np.sqrt,
    "Min": lambda x, y: np.minimum(x, y),
    "Max": lambda x, y: np.maximum(x, y),
    "Equal": np.equal,
    "Where": np.where,
}
FOLDERS: Final[Mapping[str, Folder]] = {
    "Constant": _constant,
    "Shape": _shape,
    "Gather": _gather,
    "Concat": _concat,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Expand": _expand,
    "Slice": _slice,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "ConstantOfShape": _constant_of_shape,
    "ReduceProd": _product,
    **{name: _elementwise(compute) for name, compute in ELEMENTWISE.items()},
}
