"""Batch norm with a following ReLU and rounding taken in: records the launches of both passes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from emberfleet.engine.opencl.layout import Storage, View
from emberfleet.engine.opencl.program import ARENA, Program

RELU, BATCH, QUANTIZE, ACCUMULATE, WRITE_DX, REPEAT = 1, 2, 4, 8, 16, 32


@dataclass(frozen=True, slots=True)
class Norm:
    """One batch norm: its numbers and where its tensors lie."""

    gamma: int
    beta: int
    """Offsets in `params`."""
    mean: int
    variance: int
    """Offsets in `state`."""
    epsilon: float
    momentum: float
    batch_statistics: bool
    relu: bool
    ceiling: float = math.inf
    """Of the ReLU."""
    rounding: int | None = None
    """Place in `quantization` of the rounding taken in."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What backward needs of forward."""

    statistics: Storage
    partial: Storage
    extremes: Storage | None
    parts: int


def forward(program: Program, x: View, y: View, norm: Norm) -> Saved:
    """Record statistics and normalisation; `y` may be `x`'s own storage only when backward is not wanted."""
    block, panels, channels = program.channel_block(x)
    size, parts = program.parts(x, summed=True)
    partial = program.scratch("batch_norm/partial", parts * 2 * channels)
    saved = program.scratch("batch_norm/saved", 4 * channels)
    extremes = None
    if norm.rounding is not None:
        extremes = program.scratch("batch_norm/extremes", parts * 2 * channels)
    count = x.batch * x.height * x.width
    pv = (partial, channels, parts, saved)
    if norm.batch_statistics:
        program.emit(
            "batch_norm", "batch_norm_statistics_f32", (panels, parts),
            ARENA, ARENA, x, size, pv, options=block,
        )  # fmt: skip
    program.emit(
        "batch_norm",
        "batch_norm_forward_f32",
        (panels, parts),
        *(ARENA, ARENA, ARENA, ARENA, "params", "state", "quantization"),
        *(x, y, size, pv, (norm.gamma, norm.beta, norm.mean, norm.variance)),
        (norm.epsilon, norm.momentum, 1.0 / count, count / max(count - 1, 1)),
        (extremes if extremes is not None else 0, norm.rounding or 0, _flags(norm), 0),
        np.float32(norm.ceiling),
        options=block,
    )
    return Saved(saved, partial, extremes, parts)


def repeat(program: Program, x: View, y: View, norm: Norm, saved: Saved) -> None:
    """Record `y` once more from the same `x`: the same bits; statistics and extremes stay."""
    block, panels, channels = program.channel_block(x)
    size, parts = program.parts(x, summed=True)
    program.emit(
        "batch_norm",
        "batch_norm_forward_f32",
        (panels, parts),
        *(ARENA, ARENA, ARENA, ARENA, "params", "state", "quantization"),
        *(x, y, size, (0, channels, parts, saved.statistics), (0, 0, 0, 0)),
        (0.0, 0.0, 0.0, 0.0),
        (0, norm.rounding or 0, _flags(norm) | REPEAT, 0),
        np.float32(norm.ceiling),
        options=block,
    )


def backward(
    program: Program,
    x: View,
    dy: View,
    dx: View | None,
    norm: Norm,
    saved: Saved,
    targets: tuple[int, int],
    accumulate: bool,
) -> None:
    """Record the gradients.

    Args:
        program: Takes the launches.
        x: Input of the forward pass.
        dy: Gradient of the output, after ReLU and rounding.
        dx: Receives the gradient of the input; None: not wanted.
        norm: As in forward.
        saved: What forward gave.
        targets: Offsets of dgamma and dbeta in the buffer `gradients`, -1 where not wanted.
        accumulate: Add to what is in `dx`.
    """
    block, panels, channels = program.channel_block(x)
    size, parts = program.parts(x, summed=True)
    partial = program.scratch("batch_norm/sums", parts * 2 * channels)
    pv = (partial, channels, parts, saved.statistics)
    flags, place = _flags(norm), norm.rounding or 0
    program.emit(
        "batch_norm", "batch_norm_reduce_f32", (panels, parts),
        ARENA, ARENA, ARENA, "quantization", ARENA, x, dy, size, pv, place, flags, np.float32(norm.ceiling),
        options=block,
    )  # fmt: skip
    flags |= (ACCUMULATE if accumulate else 0) | (WRITE_DX if dx is not None else 0)
    program.emit(
        "batch_norm",
        "batch_norm_backward_f32",
        (panels, parts if dx is not None else 1),
        *(ARENA, ARENA, ARENA, ARENA, ARENA, "quantization", "gradients"),
        *(x, dy, dx if dx is not None else dy, size, pv, (*targets, flags, place)),
        (0.0, 0.0, 1.0 / (x.batch * x.height * x.width), 0.0),
        np.float32(norm.ceiling),
        options=block,
    )


def _flags(norm: Norm) -> int:
    return (
        (RELU if norm.relu else 0)
        | (BATCH if norm.batch_statistics else 0)
        | (QUANTIZE if norm.rounding is not None else 0)
    )
