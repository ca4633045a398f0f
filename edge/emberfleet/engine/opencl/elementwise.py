"""Copies, sums, ReLU, dropout, rounding and reshaping: records the launches."""

from __future__ import annotations

import math

import numpy as np

from emberfleet.core.nodes import Dropout
from emberfleet.engine.dropout import threshold
from emberfleet.engine.opencl.layout import Storage, View
from emberfleet.engine.opencl.program import ARENA, Argument, Program


def copy(program: Program, x: View, y: View, accumulate: bool = False) -> None:
    """Record ``y = x`` (or ``y += x``) for tensors of one shape, wherever they lie."""
    size, parts = program.parts(x)
    aligned = _aligned(x, program) and _aligned(y, program)
    if not aligned:
        y.images.leave_gaps()
    program.emit(
        "elementwise",
        "copy_f32" if aligned else "copy_channels_f32",
        (parts,),
        *(ARENA, ARENA, x, y, size, x.padded_channels if aligned else x.channels, int(accumulate)),
    )


def add(program: Program, a: View, b: View, y: View) -> None:
    """Record ``y = a + b``."""
    size, parts = program.parts(y)
    program.emit("elementwise", "add_f32", (parts,), ARENA, ARENA, ARENA, a, b, y, size, y.padded_channels)


def relu_forward(program: Program, x: View, y: View, ceiling: float) -> None:
    """Record ``y = min(max(x, 0), ceiling)``."""
    size, parts = program.parts(x)
    program.emit(
        "elementwise", "relu_forward_f32", (parts,),
        ARENA, ARENA, x, y, size, x.padded_channels, np.float32(ceiling),
    )  # fmt: skip


def relu_backward(program: Program, y: View, dy: View, dx: View, accumulate: bool, ceiling: float) -> None:
    """Record ``dx = dy where 0 < y < ceiling`` (or added to `dx`)."""
    size, parts = program.parts(y)
    program.emit(
        "elementwise",
        "relu_backward_f32",
        (parts,),
        *(ARENA, ARENA, ARENA, y, dy, dx, size, y.padded_channels, int(accumulate), np.float32(ceiling)),
    )


def dropout(program: Program, x: View, y: View, node: Dropout, accumulate: bool = False) -> None:
    """Record ``y = mask * x / (1 - rate)``; the last argument, the mask's key, is set before each step."""
    size, parts = program.parts(x)
    y.images.leave_gaps()
    program.emit(
        "elementwise",
        "dropout_f32",
        (parts,),
        *(ARENA, ARENA, x, y, size, x.channels, np.uint32(threshold(node.rate))),
        *(np.float32(1.0 / (1.0 - node.rate)), int(accumulate), np.uint32(0)),
    )


def quantize(program: Program, x: View, y: View, place: int, observe: bool) -> tuple[Storage, int] | None:
    """Record the rounding of `x`; with `observe`, returns the partial extremes and their number."""
    size, parts = program.parts(x)
    if not _aligned(x, program):
        program.emit(
            "elementwise", "quantize_channels_f32", (parts,),
            ARENA, "quantization", x, size, x.channels, place,
        )  # fmt: skip
        return None
    lanes, span = program.device.lanes, program.device.span(x.padded_channels // program.vector)
    found = parts * (lanes // span)
    extremes = program.scratch("extremes", found * 2 * x.padded_channels) if observe else None
    program.emit(
        "elementwise",
        "quantize_f32",
        (parts,),
        *(ARENA, ARENA, "quantization", x, y, size, x.padded_channels),
        (extremes if extremes is not None else -1, place),
    )
    return None if extremes is None else (extremes, found)


def quantize_backward(program: Program, x: View, dy: View, dx: View, place: int, accumulate: bool) -> None:
    """Record ``dx = dy where x was not cut off`` (or added to `dx`)."""
    size, parts = program.parts(x)
    program.emit(
        "elementwise",
        "quantize_backward_f32",
        (parts,),
        *(ARENA, ARENA, ARENA, "quantization", x, dy, dx, size, x.padded_channels, int(accumulate), place),
    )


def bias_parts(program: Program, dy: View) -> int:
    """Into how many partial sums `bias_gradient` cuts its work."""
    return program.parts(dy, summed=True)[1]


def bias_gradient(
    program: Program,
    dy: View,
    target: tuple[int, int],
    relu: View | None = None,
    ceiling: float = math.inf,
) -> None:
    """Record sums of `dy` per channel into `gradients`: offset of the first part, floats between parts.

    With `relu`, the output of a ReLU, `dy` is first set to zero where that is not above zero and below
    the ReLU's ceiling.
    """
    size, parts = program.parts(dy, summed=True)
    block, panels, _ = program.channel_block(dy)
    if relu is None:
        arguments: tuple[Argument, ...] = (ARENA, "gradients", dy, size, target)
        program.emit("elementwise", "sum_f32", (parts, panels), *arguments, options=block)
    else:
        arguments = (ARENA, ARENA, "gradients", relu, dy, size, target, np.float32(ceiling))
        program.emit("elementwise", "relu_backward_sum_f32", (parts, panels), *arguments, options=block)


def reshape(program: Program, x: View, y: View, accumulate: bool = False) -> None:
    """Record the values of `x` in the shape of `y`."""
    y.images.leave_gaps()
    program.emit(
        "elementwise",
        "reshape_f32",
        (x.batch,),
        *(ARENA, ARENA, x, y, (x.height, x.width, x.channels, 0), (y.height, y.width, y.channels, 0)),
        int(accumulate),
    )


def clear(program: Program, y: View) -> None:
    """Record ``y = 0``."""
    size, parts = program.parts(y)
    program.emit("elementwise", "clear_f32", (parts,), ARENA, y, size, y.padded_channels)


def _aligned(x: View, program: Program) -> bool:
    """Whether a tensor is made of whole vectors that hold nothing but it and padding."""
    if x.vector != program.vector or x.first_channel % x.vector:
        return False
    return x.channels % x.vector == 0 or x.first_channel + x.channels == x.images.used_channels
