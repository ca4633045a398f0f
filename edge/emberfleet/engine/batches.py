"""What a backend checks on the host before it computes: an index out of range kills a kernel's process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from emberfleet.core.arrays import Array, Int8, Int64
from emberfleet.core.errors import ShapeError
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Shape


def check_codes(shape: Shape, q: Int8) -> None:
    """Raise `ShapeError` unless `q` is ``(n, H, W, C)`` int8 of the image shape given."""
    if q.dtype != np.int8 or q.ndim != 4 or q.shape[1:] != shape:
        raise ShapeError(f"images are {q.shape} {q.dtype}, expected (n, {', '.join(map(str, shape))}) int8")


def check_images(graph: Graph, x: Array, batch: int | None = None) -> None:
    """Raise `ShapeError` unless `x` is ``(batch, H, W, C)`` of real numbers; None: any batch."""
    wanted = graph.input.shape
    if x.ndim != 4 or x.shape[1:] != wanted or (batch is not None and len(x) != batch):
        count = "n" if batch is None else str(batch)
        raise ShapeError(f"images are {x.shape}, expected ({count}, {', '.join(map(str, wanted))})")
    if x.dtype.kind not in "fiu":
        raise ShapeError(f"images are {x.dtype}, expected real numbers")


def check_labels(graph: Graph, labels: Array, batch: int) -> Int64:
    """The labels as int64 ``(batch * P,)``, one row of logits after the other.

    Raises:
        ShapeError: neither ``(batch,)`` nor ``(batch, P)`` as the graph has it, not integers, or
            not in [0, K).
    """
    found = np.asarray(labels)
    output = graph.shapes[graph.logits]
    wanted = (batch,) if len(output) == 1 else (batch, graph.positions)
    if found.shape != wanted:
        raise ShapeError(f"labels are {found.shape}, expected {wanted}")
    if found.dtype.kind not in "iu":
        raise ShapeError(f"labels are {found.dtype}, expected integers")
    flat = found.astype(np.int64).reshape(-1)
    bad = np.flatnonzero((flat < 0) | (flat >= graph.classes))
    if bad.size:
        raise ShapeError(
            f"label {flat[bad[0]]} at index {bad[0]}: expected 0 to {graph.classes - 1}, "
            f"for {graph.classes} classes"
        )
    return flat


def learning_names(graph: Graph, trainable: frozenset[str] | None) -> tuple[str, ...]:
    """Names of the parameters that learn, in the graph's order.

    Raises:
        ShapeError: a name in `trainable` is not a parameter of the graph.
    """
    if trainable is None:
        return tuple(graph.parameters)
    unknown = sorted(trainable - set(graph.parameters))
    if unknown:
        raise ShapeError(f"'{unknown[0]}' is to learn, but the graph has no parameter of this name")
    return tuple(name for name in graph.parameters if name in trainable)


def check_ranges(names: Iterable[str], tensors: Mapping[str, Array]) -> None:
    """Raise `ShapeError` unless every range named is there, as ``[min, max]``."""
    for name in names:
        if name not in tensors:
            raise ShapeError(f"range '{name}' is missing, expected [min, max]: calibrate the model first")
        if tuple(tensors[name].shape) != (2,):
            raise ShapeError(f"range '{name}': shape is {tensors[name].shape}, expected (2,)")


def check_optimizer_state(shapes: Mapping[str, Shape], state: Mapping[str, Array]) -> None:
    """Raise `ShapeError` unless `state` holds its step and every slot in `shapes`, ``slot0/conv1/weight``."""
    if "step" not in state or np.size(state["step"]) != 1:
        raise ShapeError("optimizer state: 'step' is missing or not one number")
    for name, shape in shapes.items():
        if name not in state or tuple(state[name].shape) != shape:
            found = tuple(state[name].shape) if name in state else "missing"
            raise ShapeError(f"optimizer state '{name}': {found}, expected shape {shape}")
