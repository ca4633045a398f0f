"""Depthwise convolution in int8: packs weights, cuts the work, records the launch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from emberfleet.engine.opencl.conv2d import check_window
from emberfleet.engine.opencl.conv2d_s8 import Branch, PackedConvs, pack_factors
from emberfleet.engine.opencl.depthwise import choose_tile, cut_rows, stored
from emberfleet.engine.opencl.dot import EXACT_FLOAT32
from emberfleet.engine.opencl.layout import View
from emberfleet.engine.opencl.program import ARENA, Counted, Program


@dataclass(frozen=True, slots=True)
class IntegerDepthwiseTile:
    """Compile-time constants of depthwise_s8.cl with a window: `DepthwiseTile`, and how codes are summed."""

    kh: int
    kw: int
    sy: int
    sx: int
    mrx: int
    mry: int
    v: int
    unsigned: bool
    integers: bool
    plain: bool
    relu: bool


@dataclass(frozen=True, slots=True)
class AnyWindow:
    """Compile-time constants of depthwise_s8.cl without a window."""

    v: int
    unsigned: bool
    integers: bool
    plain: bool
    relu: bool


def forward(
    program: Program, x: View, branch: Branch, zero_point: int, offset: int, packed: PackedConvs
) -> None:
    """Record a depthwise convolution without a multiplier: `x` has as many channels as the output.

    Args:
        program: Takes the launch; an int8 program with the buffers `weights` and `numbers`.
        x: Input, the halo holding its zero point.
        branch: The convolution, its output and limits.
        zero_point: Of the input, as stored.
        offset: What is added to codes to store them.
        packed: Takes the weights and numbers.
    """
    y, window = branch.y, branch.window
    check_window(x, y, window)
    taps, channels = math.prod(window.kernel), y.padded_channels
    integers = taps * 255 * 127 >= EXACT_FLOAT32
    weights = np.zeros((taps, channels), np.int32 if integers else np.float32)
    weights[:, : y.channels] = branch.op.weights.reshape(y.channels, taps).T
    factors, plain = pack_factors(branch, zero_point, 1, channels)
    forms = bool(offset), integers, plain, branch.op.relu
    tile = choose_tile(program, window, y.height, y.width)
    blocks = -(-y.height // (tile.mry if tile else 1))
    panels, cut = cut_rows(program, x.batch, blocks, y)
    program.emit(
        "depthwise_s8",
        "depthwise_s8" if tile else "depthwise_any_s8",
        (-(-cut[2] // cut[0]), panels),
        *(ARENA, "weights", "numbers", ARENA, stored(x, -window.up, -window.left), y),
        (y.height, y.width),
        cut,
        (packed.add_weights(weights), packed.add_numbers(factors), channels, 0),
        (*branch.limits[:2], 0, 0),
        *(() if tile else ((*window.kernel, *window.stride),)),
        options=IntegerDepthwiseTile(*tile.numbers, *forms) if tile else AnyWindow(program.vector, *forms),
        work=Counted(2 * taps * y.size, x.size + taps * y.channels + y.size),
    )
