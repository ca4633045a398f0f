"""Convolution in int8: packs weights for the form of dot product in use, records the launch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from emberfleet.core.arrays import Array, Int32
from emberfleet.core.integer import IntegerConv
from emberfleet.engine.opencl.conv2d import Window, check_window, forward_tile, rows_per_group, walk_pixels
from emberfleet.engine.opencl.layout import View
from emberfleet.engine.opencl.program import ARENA, Program

EXACT_FLOAT32 = 1 << 24
"""Integers below this are exact in float32."""


class Dot(IntEnum):
    """Forms of the int8 dot product, the number being the kernel's DOT option."""

    PLAIN = 0
    FLOAT = 1


@dataclass(frozen=True, slots=True)
class IntegerTile:
    """A tile of `conv2d_forward_s8`: pixels across, down, vectors of output channels, form of product."""

    mrx: int
    mry: int
    nv: int
    v: int
    dot: int


def allowed_forms(op: IntegerConv) -> tuple[Dot, ...]:
    """The forms that are exact for this convolution, the fastest first."""
    length = op.weights[0].size
    return (Dot.FLOAT, Dot.PLAIN) if length * 128 * 127 < EXACT_FLOAT32 else (Dot.PLAIN,)


def pack_weights(op: IntegerConv, dot: Dot, padded: int) -> Array:
    """``(KH, KW, C, O padded)`` in the type that the form reads."""
    outputs = len(op.weights)
    packed = np.zeros((op.weights[0].size, padded), np.float32 if dot is Dot.FLOAT else np.int8)
    packed[:, :outputs] = op.weights.reshape(outputs, -1).T
    return packed


def pack_numbers(op: IntegerConv, zero_point: int, padded: int) -> Int32:
    """``(3, O padded)``: bias with the input's zero point taken out, multiplier, shift."""
    outputs = len(op.weights)
    sums = op.weights.reshape(outputs, -1).sum(axis=1, dtype=np.int64)
    numbers = np.zeros((3, padded), np.int32)
    numbers[0, :outputs] = (op.bias.astype(np.int64) - zero_point * sums).astype(np.int32)
    numbers[1, :outputs] = op.multiplier
    numbers[2, :outputs] = op.shift
    return numbers


def forward(
    program: Program,
    x: View,
    y: View,
    op: IntegerConv,
    dot: Dot,
    offsets: tuple[int, int],
    limits: tuple[int, int, int],
) -> None:
    """Record the convolution.

    Args:
        program: Takes the launch; an int8 program with the buffers `weights_s8`, `weights_f32`, `numbers`.
        x: Input, the halo holding its zero point.
        y: Output.
        op: Kernel size, stride and padding.
        dot: One of `allowed_forms`.
        offsets: Of the packed weights in the buffer of their type, of the numbers.
        limits: Zero point, lowest and highest code of the output.
    """
    window = Window((op.weights.shape[1], op.weights.shape[2]), op.stride, op.padding[0], op.padding[1])
    check_window(x, y, window)
    walk = walk_pixels(x, y, window, program)
    tile = forward_tile(walk, y.padded_channels, program.vector)
    panels = y.padded_channels // (tile.nv * tile.v)
    block = rows_per_group(walk, tile, panels, program.device.limits.compute_units)
    program.emit(
        "conv2d_s8",
        "conv2d_forward_s8",
        (panels, -(-walk.rows // block), walk.images),
        *(ARENA, "weights_f32" if dot is Dot.FLOAT else "weights_s8", "numbers", ARENA, walk.x),
        (*window.kernel, x.images.padded_row, x.images.channels),
        walk.y,
        (walk.rows, walk.columns, x.channels, block),
        (offsets[0], y.padded_channels, offsets[1], 0),
        (*limits, 0),
        options=IntegerTile(tile.mrx, tile.mry, tile.nv, tile.v, int(dot)),
    )
