"""Operators that move no value: they change the view of a tensor, or tell its shape."""

from __future__ import annotations

import math

import numpy as np

from emberfleet.converters.onnx.file import OnnxNode
from emberfleet.converters.onnx.view import BATCH, View
from emberfleet.converters.onnx.walk import Handlers, Walk
from emberfleet.core.nodes import Reshape

SHAPES = "shapes and layouts"


def identity(walk: Walk, node: OnnxNode) -> None:
    """Identity."""
    node.allow()
    walk.alias(node, walk.view(node, 0, padded=True), "identities")


def cast(walk: Walk, node: OnnxNode) -> None:
    """Cast of float32 to float32."""
    node.allow("to", "saturate")
    if node.integer("to", 1) != 1:
        raise node.error(f"casts to type {node.integer('to', 1)}, expected 1: float32 throughout")
    walk.alias(node, walk.view(node, 0, padded=True), "identities")


def cast_like(walk: Walk, node: OnnxNode) -> None:
    """CastLike, which torch writes around constants: everything that the network computes is float32."""
    node.allow("saturate")
    known = walk.values.get(node.inputs[0]) if node.inputs else None
    if isinstance(known, np.ndarray):
        walk.view(node, 1)
        walk.folded["constants"] += 1
        walk.give(node, known.astype(np.float32))
        return
    like = walk.values.get(node.inputs[1]) if len(node.inputs) == 2 else None
    if isinstance(like, np.ndarray) and like.dtype != np.float32:
        raise node.error(f"casts to {like.dtype}, expected float32 throughout")
    walk.alias(node, walk.view(node, 0, padded=True), "identities")


def shape(walk: Walk, node: OnnxNode) -> None:
    """Shape: known, since every tensor's is."""
    node.allow("start", "end")
    sizes = walk.view(node, 0).sizes
    end = node.integer("end", len(sizes))
    walk.folded["constants"] += 1
    walk.give(node, np.array(sizes[node.integer("start", 0) : end], np.int64))


def transpose(walk: Walk, node: OnnxNode) -> None:
    """Transpose: the dimensions in another order."""
    node.allow("perm")
    view = walk.view(node, 0, padded=True)
    rank = len(view.dims)
    order = node.integers("perm", tuple(reversed(range(rank))))
    assert order is not None
    if sorted(order) != list(range(rank)):
        raise node.error(f"perm is {order}, expected an order of {rank} axes")
    walk.alias(node, view.permuted(order), SHAPES)


def flatten(walk: Walk, node: OnnxNode) -> None:
    """Flatten to two dimensions."""
    node.allow("axis")
    view = walk.view(node, 0)
    sizes, axis = view.sizes, node.integer("axis", 1)
    if not -len(sizes) <= axis <= len(sizes):
        raise node.error(f"axis is {axis}, the tensor has {len(sizes)}")
    cut = axis if axis >= 0 else axis + len(sizes)
    _regroup(walk, node, view, (math.prod(sizes[:cut]), math.prod(sizes[cut:])))


def reshape(walk: Walk, node: OnnxNode) -> None:
    """Reshape: the same values in dimensions of other sizes."""
    node.allow("allowzero")
    view = walk.view(node, 0)
    wanted = [int(size) for size in walk.constant(node, 1, "the shape").ravel()]
    sizes = view.sizes
    if not node.integer("allowzero", 0):
        wanted = [
            sizes[index] if size == 0 and index < len(sizes) else size for index, size in enumerate(wanted)
        ]
    known = math.prod(size for size in wanted if size != -1)
    if wanted.count(-1) == 1 and known > 0 and math.prod(sizes) % known == 0:
        wanted[wanted.index(-1)] = math.prod(sizes) // known
    if any(size < 1 for size in wanted) or math.prod(wanted) != math.prod(sizes):
        raise node.error(
            f"reshapes {walk.words(sizes)} to {walk.words(tuple(wanted[:16]))}, which does not fill it; "
            "where the batch N was exported as a fixed number, give the input that number too"
        )
    _regroup(walk, node, view, tuple(wanted))


def _regroup(walk: Walk, node: OnnxNode, view: View, sizes: tuple[int, ...]) -> None:
    found = view.regrouped(sizes)
    if found is not None:
        walk.alias(node, found, SHAPES)
        return
    # A vector may be cut, since nothing says what its values are: classes at positions, or an image.
    parts = tuple(size for size in sizes[1:] if size != 1)
    vector = max(view.shape) == math.prod(view.shape) and view.in_our_order
    if not vector or len(parts) not in (2, 3) or sizes[0] != walk.batch:
        raise node.error(
            f"reshapes {walk.words(view.sizes)} to {walk.words(sizes)}, which cuts the image's axes; "
            "expected to flatten, to restore an image, or to split classes into positions (N, P, K)"
        )
    name = walk.emit(Reshape(walk.name(node), (view.node,), parts))
    axes = iter(range(len(parts)))
    dims = ((next(axes),) if size != 1 else () for size in sizes[1:])
    walk.give(node, View(name, parts, (), view.batch).arranged((BATCH,), *dims))


def squeeze(walk: Walk, node: OnnxNode) -> None:
    """Squeeze: dimensions of one left out."""
    node.allow("axes")
    view = walk.view(node, 0)
    sizes = view.sizes
    axes = _axes(walk, node, len(sizes))
    dropped = {index for index, size in enumerate(sizes) if size == 1} if axes is None else axes
    if any(sizes[index] != 1 for index in dropped):
        raise node.error(f"squeezes the axes {sorted(dropped)} of {walk.words(sizes)}, expected axes of 1")
    _regroup(walk, node, view, tuple(size for index, size in enumerate(sizes) if index not in dropped))


def unsqueeze(walk: Walk, node: OnnxNode) -> None:
    """Unsqueeze: dimensions of one put in."""
    node.allow("axes")
    view = walk.view(node, 0)
    given = _raw_axes(walk, node) or ()
    rank = len(view.dims) + len(given)
    axes = _axes(walk, node, rank) or set()
    left = iter(view.sizes)
    if len(axes) != len(given):
        raise node.error(f"axes are {given}, expected each once")
    _regroup(walk, node, view, tuple(1 if index in axes else next(left) for index in range(rank)))


def _raw_axes(walk: Walk, node: OnnxNode) -> tuple[int, ...] | None:
    """Axes from the attribute (opset 11, 12) or from the second input."""
    given = walk.optional_constant(node, 1, "the axes")
    return node.integers("axes") if given is None else tuple(int(axis) for axis in given.ravel())


def _axes(walk: Walk, node: OnnxNode, rank: int) -> set[int] | None:
    axes = _raw_axes(walk, node)
    if axes is None:
        return None
    if len(axes) > rank or not all(-rank <= axis < rank for axis in axes):
        raise node.error(f"axes are {axes}, expected some of {rank}")
    return {axis % rank for axis in axes}


SHAPING: Handlers = {
    "Identity": identity,
    "Cast": cast,
    "CastLike": cast_like,
    "Shape": shape,
    "Transpose": transpose,
    "Flatten": flatten,
    "Reshape": reshape,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
}
