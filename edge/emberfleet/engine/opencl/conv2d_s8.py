"""Convolution in int8: packs weights for the form of dot product in use, cuts the work, records it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from emberfleet.core.arrays import Array, Int8, Int32
from emberfleet.core.integer import IntegerConv, IntegerDepthwiseConv
from emberfleet.engine.opencl.conv2d import Walk, Window, check_window
from emberfleet.engine.opencl.dot import Dot
from emberfleet.engine.opencl.layout import Place, View, round_up
from emberfleet.engine.opencl.program import ARENA, Counted, Program

RECORD = 16
"""Ints of a panel's record before its factors."""

CELL_BYTES = 64
"""Packed weights start at multiples of this."""

SPARE_REGISTERS, SPARE_FOR_SDOT = 4, 8
"""Vector registers that hold neither sums nor weights; inline assembly keeps more loads under way."""

GPU_REGISTERS = 12
"""Vectors of sums and weights of one lane."""

DOTS, LOADS = 2, 2
"""Dot products and loads that a core starts in a cycle."""

LATENCY, EPILOGUE, TILE_OVERHEAD = 5, 6, 24
"""Cycles: until a sum can be added to again; to scale a vector down; for a tile besides."""


@dataclass(frozen=True, slots=True)
class IntegerTile:
    """A tile of `conv2d_forward_s8`: pixels across, down, vectors of output channels, grains at a time."""

    mrx: int
    mry: int
    nv: int
    v: int
    step: int
    dot: int
    unsigned: bool
    relu: bool


@dataclass(frozen=True, slots=True)
class Branch:
    """One of the convolutions that read the same tensor in one launch; they write to one storage."""

    op: IntegerConv | IntegerDepthwiseConv
    y: View
    limits: tuple[int, int, int]
    """Zero point, lowest and highest code of the output, as stored."""

    @property
    def window(self) -> Window:
        """Kernel size, stride, padding."""
        op = self.op
        return Window((op.weights.shape[1], op.weights.shape[2]), op.stride, op.padding[0], op.padding[1])


@dataclass(slots=True)
class PackedConvs:
    """The buffers `weights` and `numbers` of a network, as they grow."""

    weights: list[Int8] = field(default_factory=list)
    numbers: list[Int32] = field(default_factory=list)
    weights_bytes: int = 0
    numbers_count: int = 0

    def add_weights(self, packed: Array) -> int:
        """Append weights of any type; returns where they start, in bytes."""
        start = self.weights_bytes
        flat = packed.reshape(-1).view(np.int8)
        self.weights.append(np.pad(flat, (0, round_up(len(flat), CELL_BYTES) - len(flat))))
        self.weights_bytes += len(self.weights[-1])
        return start

    def add_numbers(self, records: Int32) -> int:
        """Append records; returns where they start, in ints."""
        start = self.numbers_count
        self.numbers.append(records.reshape(-1))
        self.numbers_count += records.size
        return start


def forward(
    program: Program,
    x: View,
    branches: Sequence[Branch],
    zero_point: int,
    dot: Dot,
    offset: int,
    packed: PackedConvs,
) -> None:
    """Record convolutions of one tensor.

    Args:
        program: Takes the launch; an int8 program with the buffers `weights` and `numbers`.
        x: Input, the halo holding its zero point.
        branches: What is computed of it; strides and output sizes are the same.
        zero_point: Of the input.
        dot: A form that is exact for all of them.
        offset: What is added to codes to store them, in the zero point and the limits too.
        packed: Takes the weights and numbers.
    """
    for branch in branches:
        check_window(x, branch.y, branch.window)
    # The longest first: what comes last decides how long cores wait for one another.
    branches = sorted(branches, key=lambda branch: -branch.op.weights[0].size)
    first = branches[0]
    walk = walk_pixels(x, [branch.y for branch in branches], [branch.window for branch in branches])
    runs = [_window_runs(x, branch.window, dot) for branch in branches]
    tile = choose_tile(walk, branches, runs, program, dot, bool(offset))
    channels = tile.nv * tile.v
    records = []
    for branch, (columns, grains) in zip(branches, runs, strict=True):
        panels = branch.y.padded_channels // channels
        weights = pack_weights(branch.op, dot, panels, channels)
        start = packed.add_weights(weights)
        factors, plain = pack_factors(branch, zero_point, panels, channels)
        head = np.zeros((panels, RECORD), np.int32)
        window = branch.window
        head[:, :4] = (
            -window.up * x.images.padded_row - window.left * x.images.channels,
            window.kernel[0],
            columns,
            grains,
        )
        head[:, 4] = start + np.arange(panels) * (weights.nbytes // panels)
        head[:, 5] = branch.y.first_channel - first.y.first_channel + np.arange(panels) * channels
        zero, low, _ = branch.limits
        head[:, 6:9] = (low, plain, zero)
        records.append(np.concatenate([head, factors.reshape(panels, -1)], axis=1))
    first_record = packed.add_numbers(np.concatenate(records))
    panels = sum(len(part) for part in records)
    alone = program.device.lanes == 1 and program.device.limits.compute_units == 1
    rows, columns = cut(walk, tile, panels, 1 if alone else program.device.busy_groups)
    across = -(-walk.columns // columns)
    program.emit(
        "conv2d_s8",
        "conv2d_forward_s8",
        (panels, -(-walk.rows // rows) * across, walk.images),
        *(ARENA, "weights", "numbers", ARENA, walk.x),
        (x.images.padded_row, x.images.channels),
        walk.y,
        (walk.rows, walk.columns),
        (first_record, rows, columns, across),
        options=tile,
        work=_work(x, branches),
    )


def _work(x: View, branches: Sequence[Branch]) -> Counted:
    """Products and sums of all branches; the input is read once."""
    pixels = branches[0].y.size // branches[0].y.channels
    weights = sum(branch.op.weights.size for branch in branches)
    return Counted(2 * pixels * weights, x.size + weights + sum(branch.y.size for branch in branches))


def pack_weights(op: IntegerConv | IntegerDepthwiseConv, dot: Dot, panels: int, channels: int) -> Array:
    """``(panels, KH, KW, C / grain, channels of a panel, grain)``, zeros beyond C and O."""
    outputs, kh, kw, inputs = op.weights.shape
    grains = -(-inputs // dot.grain)
    whole = np.zeros((panels * channels, kh, kw, grains * dot.grain), np.int8)
    whole[:outputs, :, :, :inputs] = op.weights
    shaped = whole.reshape(panels, channels, kh, kw, grains, dot.grain).transpose(0, 2, 3, 4, 1, 5)
    return np.ascontiguousarray(shaped, np.float32 if dot is Dot.FLOAT else np.int8)


def pack_factors(branch: Branch, zero_point: int, panels: int, channels: int) -> tuple[Int32, bool]:
    """``(panels, 4, channels)``: bias, multiplier, nudge, right; or bias, multiplier, shift, nothing.

    The second form is for factors that `scale_down` of the kernel does not suit: those of half and more,
    and those where its 32-bit sums might overflow.

    Args:
        branch: The convolution and the limits of its output.
        zero_point: Of the stored input.
        panels: Their number.
        channels: Of a panel.

    Returns:
        The numbers, and whether they are in the second form.
    """
    op = branch.op
    outputs = len(op.weights)
    weights = op.weights.reshape(outputs, -1)
    bias = op.bias.astype(np.int64) - zero_point * weights.sum(axis=1, dtype=np.int64)
    right = np.where(op.multiplier > 0, -op.shift.astype(np.int64), 1)
    nudge = (np.int64(1) << np.maximum(right, 1) - 1) + (branch.limits[0] << np.maximum(right, 0))
    largest = np.abs(bias) + 255 * np.abs(weights.astype(np.int16)).sum(axis=1, dtype=np.int64)
    plain = bool((right < 1).any() or (largest + np.abs(nudge) >= 1 << 31).any())
    numbers = np.zeros((4, panels * channels), np.int32)
    # A bias beyond 32 bits wraps, as the sum does that it is added to.
    numbers[0, :outputs] = bias.astype(np.int32)
    numbers[1, :outputs] = op.multiplier
    if plain:
        numbers[2, :outputs] = op.shift
    else:
        numbers[2, :outputs], numbers[3, :outputs] = nudge, right
    return np.ascontiguousarray(numbers.reshape(4, panels, channels).transpose(1, 0, 2)), plain


def walk_pixels(x: View, outputs: Sequence[View], windows: Sequence[Window]) -> Walk:
    """The output pixels; one row of all pixels where they follow one another in both tensors."""
    y = outputs[0]
    taps, out = x.window(0, 0, windows[0].stride), y.place()
    if y.height == y.width == 1:
        return _line(y.batch, taps, out, taps.image, out.image)
    if x.contiguous and y.contiguous and all(window == Window((1, 1)) for window in windows):
        return _line(y.batch * y.height * y.width, taps, out, taps.pixel, out.pixel)
    return Walk(y.batch, y.height, y.width, taps, out)


def choose_tile(
    walk: Walk,
    branches: Sequence[Branch],
    runs: Sequence[tuple[int, int]],
    program: Program,
    dot: Dot,
    unsigned: bool,
) -> IntegerTile:
    """The tile that takes the fewest cycles by a model of the core, among those that fit its registers."""
    vector, device = program.vector, program.device
    vectors = [branch.y.padded_channels // vector for branch in branches]
    steps = [
        b.window.kernel[0] * columns * grains for b, (columns, grains) in zip(branches, runs, strict=True)
    ]
    relu = all(branch.op.relu for branch in branches)
    step = next(s for s in (4, 3, 2, 1) if all(grains % s == 0 for _, grains in runs))
    spare = SPARE_FOR_SDOT if dot is Dot.SDOT else SPARE_REGISTERS
    registers = GPU_REGISTERS if device.family == "gpu" else device.limits.vector_registers - spare

    def candidates() -> Iterator[tuple[float, IntegerTile]]:
        for nv in (n for n in (1, 2, 3, 4) if all(count % n == 0 for count in vectors)):
            for mrx in range(1, min(walk.columns, registers) + 1):
                for mry in range(1, min(walk.rows, registers // mrx) + 1 if mrx == walk.columns else 2):
                    sums = mrx * mry * nv
                    if sums + nv > registers:
                        continue
                    tiles = -(-walk.columns // mrx) * -(-walk.rows // mry)
                    each = max(sums / DOTS, (mrx * mry + nv) / LOADS, LATENCY)
                    cycles = sum(
                        count // nv * (length * each + sums * EPILOGUE + TILE_OVERHEAD)
                        for count, length in zip(vectors, steps, strict=True)
                    )
                    yield tiles * cycles, IntegerTile(mrx, mry, nv, vector, step, int(dot), unsigned, relu)

    return min(candidates(), key=lambda scored: scored[0])[1]


def cut(walk: Walk, tile: IntegerTile, panels: int, groups: int) -> tuple[int, int]:
    """Rows and columns of a group's part, so that there are about as many groups as wanted."""
    wanted = max(1, -(-groups // (panels * walk.images)))
    if walk.rows == 1:
        return 1, round_up(-(-walk.columns // wanted), tile.mrx)
    return round_up(-(-walk.rows // min(wanted, walk.rows)), tile.mry), walk.columns


def _window_runs(x: View, window: Window, dot: Dot) -> tuple[int, int]:
    """Window columns and grains at each: one column where a window's row lies in one piece."""
    grains = -(-x.channels // dot.grain)
    columns = window.kernel[1]
    return (1, columns * grains) if x.images.channels == grains * dot.grain else (columns, grains)


def _line(pixels: int, x: Place, y: Place, x_step: int, y_step: int) -> Walk:
    return Walk(
        1, 1, pixels, Place(x.storage, x.start, 0, 0, x_step), Place(y.storage, y.start, 0, 0, y_step)
    )
