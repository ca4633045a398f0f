"""Max and average pooling: records the launches."""

from __future__ import annotations

import numpy as np

from emberfleet.core.nodes import AveragePool, MaxPool
from emberfleet.engine.opencl.layout import Storage, View
from emberfleet.engine.opencl.program import ARENA, FLOAT_BYTES, Program


def max_forward(program: Program, x: View, y: View, node: MaxPool, remember: bool) -> Storage | None:
    """Record ``y = max of x``; with `remember`, returns where backward finds the winners."""
    where = None
    if remember:
        count = y.batch * y.height * y.width * y.padded_channels
        where = program.scratch(f"{node.name}/where", -(-count // FLOAT_BYTES))
    program.emit(
        "pool", "max_pool_forward_f32", (y.height, y.batch),
        ARENA, ARENA, x, y, *_geometry(x, y, node, where),
    )  # fmt: skip
    return where


def max_backward(
    program: Program, dy: View, dx: View, node: MaxPool, where: Storage, accumulate: bool
) -> None:
    """Record ``dx = dy at the winners`` (or added to `dx`)."""
    program.emit(
        "pool",
        "max_pool_backward_f32",
        (dx.height, dx.batch),
        *(ARENA, ARENA, dy, dx, *_geometry(dx, dy, node, where), int(accumulate)),
    )


def average_forward(program: Program, x: View, y: View, node: AveragePool) -> None:
    """Record ``y = mean of x`` over the pixels of each window that lie inside the image."""
    program.emit(
        "pool", "average_pool_forward_f32", (y.height, y.batch),
        ARENA, ARENA, x, y, *_geometry(x, y, node, None),
    )  # fmt: skip


def average_backward(program: Program, dy: View, dx: View, node: AveragePool, accumulate: bool) -> None:
    """Record each window's `dy` shared out to its pixels (or added to `dx`)."""
    program.emit(
        "pool",
        "average_pool_backward_f32",
        (dx.height, dx.batch),
        *(ARENA, ARENA, dy, dx, *_geometry(dx, dy, node, None), int(accumulate)),
    )


def global_average_forward(program: Program, x: View, y: View) -> None:
    """Record ``y = mean of x over h and w``."""
    program.emit(
        "pool",
        "global_average_pool_forward_f32",
        (_blocks(program, x), x.batch),
        *(ARENA, ARENA, x, y, (x.height, x.width, x.padded_channels, 0), _share(x)),
    )


def global_average_backward(program: Program, dy: View, dx: View, accumulate: bool) -> None:
    """Record ``dx = dy / (H * W)`` (or added to `dx`)."""
    program.emit(
        "pool",
        "global_average_pool_backward_f32",
        (_blocks(program, dx), dx.batch),
        *(ARENA, ARENA, dy, dx, (dx.height, dx.width, dx.padded_channels, 0), _share(dx), int(accumulate)),
    )


def _blocks(program: Program, x: View) -> int:
    """Groups that share the channels: each has the vectors of the lanes that lie side by side."""
    vectors = x.padded_channels // program.vector
    return vectors // program.device.span(vectors)


def _share(x: View) -> np.float32:
    return np.float32(1.0 / (x.height * x.width))


def _geometry(
    x: View, y: View, node: MaxPool | AveragePool, where: Storage | None
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int | Storage, ...]]:
    top, left = node.padding[:2]
    return (
        (*node.kernel, *node.stride),
        (y.height, y.width, x.height, x.width),
        (top, left, where if where is not None else -1, y.padded_channels),
    )
