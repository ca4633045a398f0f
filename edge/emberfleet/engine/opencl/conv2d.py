"""Convolution and its gradients: chooses tiles, cuts the work into groups, records the launches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from emberfleet.core.errors import ShapeError
from emberfleet.engine.opencl.device import OpenCLDevice
from emberfleet.engine.opencl.layout import Place, View, round_up
from emberfleet.engine.opencl.limits import MOST_PARTS
from emberfleet.engine.opencl.program import ARENA, FLOAT_BYTES, Program
from emberfleet.engine.opencl.tiles import (
    ForwardShape,
    ForwardTile,
    WeightShape,
    WeightTile,
    forward_candidates,
    weight_candidates,
)

ACCUMULATE, RELU, BIAS, QUANTIZE = 1, 2, 4, 8

BLOCK_BYTES = 1 << 15
"""What the weight gradient reads of x and dy before it comes back to the same lines: the fast cache's size
less a reserve."""

LINE_FLOATS = 16
"""Of a cache line."""

FORWARD_LINE, WEIGHT_LINE = 96, 32
"""Pixels of a row, about, where images and rows are merged to one line and cut anew."""

FAST_LINES, FEWEST_PIXELS = 512, 16
"""Lines of the fast cache, and the pixels below which keeping to them is not worth it. Pixels whose distance
is a large power of two share few places there: `_pixels_kept` says how many stay."""


@dataclass(frozen=True, slots=True)
class Window:
    """Kernel size, stride, and padding at the top and the left."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    up: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class Taps:
    """The loops over a window as kernels see them: places down and across, channels at each, steps in x."""

    down: int
    across: int
    channels: int
    row: int
    column: int

    @classmethod
    def of(cls, x: View, window: Window, channels: int) -> Taps:
        """Neighbouring places are one run of channels where nothing lies between them in `x`."""
        (down, across), images = window.kernel, x.images
        if images.channels == channels:
            return cls(down, 1, across * channels, images.padded_row, images.channels)
        return cls(down, across, channels, images.padded_row, images.channels)

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """What a kernel is told besides the channels."""
        return self.down, self.across, self.row, self.column


@dataclass(frozen=True, slots=True)
class Weight:
    """Where a convolution's weights ``(KH, KW, C, O padded)`` are."""

    buffer: str
    offset: int
    channels: int
    padded_outputs: int


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What is done to a sum before it is stored."""

    bias: tuple[str, int] | None = None
    """Buffer and offset."""
    relu: bool = False
    accumulate: bool = False
    rounding: tuple[float, float, float, float] | None = None
    """1 / scale, scale, lowest and highest code minus the zero point."""
    ceiling: float = math.inf
    """Of a clipped ReLU."""

    @property
    def flags(self) -> int:
        """What kernels are told of it in bits."""
        return (
            (ACCUMULATE if self.accumulate else 0)
            | (RELU if self.relu else 0)
            | (BIAS if self.bias else 0)
            | (QUANTIZE if self.rounding else 0)
        )

    @property
    def numbers(self) -> tuple[tuple[float, float, float, float], np.float32]:
        """What kernels are told of it in numbers: the rounding and the ceiling."""
        first, second, third, fourth = self.rounding or (0.0, 0.0, 0.0, 0.0)
        return (float(first), float(second), float(third), float(fourth)), np.float32(self.ceiling)


@dataclass(frozen=True, slots=True)
class ForwardWork:
    """A convolution as recorded: enough to record it again with another tile."""

    shape: ForwardShape
    x: View
    weight: Weight
    y: View
    window: Window
    epilogue: Epilogue

    @property
    def flops(self) -> int:
        """See `program.Work`."""
        return 2 * math.prod(self.window.kernel) * self.weight.channels * self.y.size

    @property
    def values_moved(self) -> int:
        """See `program.Work`."""
        weights = math.prod(self.window.kernel) * self.weight.channels * self.weight.padded_outputs
        return self.x.size + weights + self.y.size * (2 if self.epilogue.accumulate else 1)


@dataclass(frozen=True, slots=True)
class WeightWork:
    """A weight gradient as recorded: enough to record it again with another tile."""

    shape: WeightShape
    x: View
    dy: View
    window: Window
    parts: int

    @property
    def flops(self) -> int:
        """See `program.Work`."""
        return 2 * math.prod(self.window.kernel) * self.x.channels * self.dy.size

    @property
    def values_moved(self) -> int:
        """See `program.Work`."""
        weights = math.prod(self.window.kernel) * self.x.channels * self.dy.padded_channels
        return self.x.size + self.dy.size + self.parts * weights


@dataclass(frozen=True, slots=True)
class Walk:
    """The output pixels as ``images x rows x columns``, and the two tensors' places in those steps."""

    images: int
    rows: int
    columns: int
    x: Place
    y: Place


def forward(
    program: Program, x: View, weight: Weight, y: View, window: Window, epilogue: Epilogue | None = None
) -> None:
    """Record ``y = act(bias + x convolved with weight)``; x's halo must be as wide as the padding."""
    done = epilogue or Epilogue()
    check_window(x, y, window)
    walk = walk_pixels(x, y, window, program)
    taps = Taps.of(x, window, weight.channels)
    shape = ForwardShape(
        (taps.down, taps.across),
        taps.channels,
        y.padded_channels,
        walk.images,
        walk.rows,
        walk.columns,
        program.vector,
    )
    device = program.device
    tile = device.tuned.get(shape) or forward_candidates(shape, device.limits.vector_registers)[0]
    vectors = y.padded_channels // (tile.nv * tile.v)
    panels = vectors // program.device.span(vectors)
    block = _rows_per_group(program.device, walk, tile, panels, vectors)
    bias = done.bias or (weight.buffer, 0)
    program.emit(
        "conv2d",
        "conv2d_forward_f32",
        (panels, -(-walk.rows // block), walk.images),
        ARENA,
        weight.buffer,
        bias[0],
        ARENA,
        walk.x,
        taps.numbers,
        walk.y,
        (walk.rows, walk.columns, taps.channels, block),
        (weight.offset, weight.padded_outputs, bias[1], done.flags),
        *done.numbers,
        options=tile,
        work=ForwardWork(shape, x, weight, y, window, done),
    )


def weight_parts(program: Program, x: View, dy: View, window: Window) -> int:
    """Into how many partial sums `backward_weight` cuts the gradient of the weights."""
    walk = _weight_walk(program, x, dy, window)
    return _cut_weight(program, walk, Taps.of(x, window, x.channels), dy).parts


def backward_weight(program: Program, x: View, dy: View, window: Window, target: tuple[int, int]) -> None:
    """Record the partial sums of the weight gradient into the buffer `gradients`.

    Args:
        program: Takes the launch.
        x: Input of the convolution, with the halo of the forward pass.
        dy: Gradient of its output.
        window: Of the forward convolution.
        target: Offset of the first partial sum, floats from one to the next.
    """
    walk = _weight_walk(program, x, dy, window)
    taps = Taps.of(x, window, x.channels)
    cut = _cut_weight(program, walk, taps, dy)
    program.emit(
        "conv2d",
        "conv2d_backward_weight_f32",
        cut.groups,
        ARENA,
        ARENA,
        "gradients",
        walk.x,
        taps.numbers,
        walk.y,
        (walk.rows, walk.columns, taps.channels, cut.rows_per_part),
        (*target, dy.padded_channels, walk.images * walk.rows),
        cut.rows_per_block,
        options=cut.tile,
        work=WeightWork(cut.shape, x, dy, window, cut.parts),
    )


@dataclass(frozen=True, slots=True)
class WeightCut:
    """How a weight gradient is cut."""

    shape: WeightShape
    tile: WeightTile
    groups: tuple[int, ...]
    parts: int
    rows_per_part: int
    rows_per_block: int


def _cut_weight(program: Program, walk: Walk, taps: Taps, dy: View) -> WeightCut:
    """Parts enough for all cores; blocks of rows small enough to stay in the fast cache."""
    device, rows = program.device, walk.images * walk.rows
    places = (taps.down, taps.across)
    shape = WeightShape(places, taps.channels, dy.padded_channels, rows, walk.columns, program.vector)
    tile = device.tuned.get(shape) or weight_candidates(shape, device.limits.vector_registers)[0]
    if device.lanes > 1:
        return _cut_for_lanes(device, shape, tile)
    panels = dy.padded_channels // (tile.nv * tile.v)
    parts = min(rows, max(1, -(-4 * device.limits.compute_units // panels)))
    each = -(-rows // parts)
    lines = tile.ky * min(tile.kc, -(-taps.channels // LINE_FLOATS)) + tile.nv
    block = BLOCK_BYTES // (walk.columns * lines * FLOAT_BYTES * LINE_FLOATS)
    block = max(1, min(block, _pixels_kept(walk.x, walk.y) // walk.columns))
    parts = -(-rows // each)
    return WeightCut(shape, tile, (panels, parts), parts, each, block)


def _weight_walk(program: Program, x: View, dy: View, window: Window) -> Walk:
    """The pixels of a weight gradient, in rows short enough for the fast cache to keep one."""
    kept = _pixels_kept(x.window(0, 0, window.stride), dy.place())
    return walk_pixels(x, dy, window, program, min(WEIGHT_LINE, kept))


def _pixels_kept(x: Place, dy: Place) -> int:
    """How many pixels in a row the fast cache keeps of both; all where that would be too few to matter."""
    lines = [place.pixel // LINE_FLOATS for place in (x, dy)]
    kept = min(FAST_LINES // max(1, count & -count) for count in lines)
    return kept if kept >= FEWEST_PIXELS else FAST_LINES


def _cut_for_lanes(device: OpenCLDevice, shape: WeightShape, tile: WeightTile) -> WeightCut:
    """Window places and channels are shared by as many groups as they fill, rows by the others needed."""
    vectors = shape.outputs // (tile.nv * tile.v)
    span = device.span(vectors)
    panels, turns = vectors // span, device.lanes // span
    places = shape.taps[0] // tile.ky * shape.taps[1] * (shape.channels // tile.kc)
    shares = min(-(-places // turns), device.busy_groups)
    wanted = min(-(-device.busy_groups // (panels * shares)), MOST_PARTS, shape.rows)
    each = -(-shape.rows // wanted)
    parts = -(-shape.rows // each)
    return WeightCut(shape, tile, (panels, parts, shares), parts, each, each)


def _rows_per_group(device: OpenCLDevice, walk: Walk, tile: ForwardTile, panels: int, vectors: int) -> int:
    """Output rows of one group: few groups, but enough for all cores; a tile for each lane."""
    wanted = 4 * device.limits.compute_units if device.family == "cpu" else device.busy_groups
    blocks = max(1, -(-wanted // (panels * walk.images)))
    each = -(-walk.rows // min(blocks, walk.rows))
    turns = device.lanes // device.span(vectors)
    filled = -(-turns // -(-walk.columns // tile.mrx)) * tile.mry
    return round_up(max(each, filled) if turns > 1 else each, tile.mry)


def walk_pixels(x: View, y: View, window: Window, program: Program, longest: int = FORWARD_LINE) -> Walk:
    """Merge images and rows where pixels follow one another, so that tiles need not end at a row's end."""
    taps = x.window(window.up, window.left, window.stride)
    out = y.place()
    if y.height == y.width == 1:
        return _line(y.batch, taps, out, taps.image, out.image, program, longest)
    if window == Window((1, 1)) and x.contiguous and y.contiguous:
        return _line(y.batch * y.height * y.width, taps, out, taps.pixel, out.pixel, program, longest)
    return Walk(y.batch, y.height, y.width, taps, out)


def _line(pixels: int, x: Place, y: Place, x_step: int, y_step: int, program: Program, longest: int) -> Walk:
    """A single run of pixels as rows of one length: a divisor of their number near a good one."""
    cores = program.device.limits.compute_units
    ideal = max(min(longest, pixels // (4 * cores)), min(pixels, 12))
    length = min((d for d in _divisors(pixels)), key=lambda d: abs(math.log(d / ideal)))
    rows = pixels // length
    return Walk(
        1,
        rows,
        length,
        Place(x.storage, x.start, 0, length * x_step, x_step),
        Place(y.storage, y.start, 0, length * y_step, y_step),
    )


def _divisors(number: int) -> Iterator[int]:
    for low in range(1, math.isqrt(number) + 1):
        if number % low == 0:
            yield low
            yield number // low


def check_window(x: View, y: View, window: Window) -> None:
    """Every tap must lie in x's storage: a kernel that reads beyond it may kill the process."""
    images = x.images
    first = images.halo[0] - window.up, images.halo[1] - window.left
    rows = images.padded_image // images.padded_row
    columns = images.padded_row // images.channels
    last = (
        first[0] + (y.height - 1) * window.stride[0] + window.kernel[0],
        first[1] + (y.width - 1) * window.stride[1] + window.kernel[1],
    )
    if min(first) < 0 or last[0] > rows or last[1] > columns or x.batch != y.batch:
        raise ShapeError(
            f"convolution: window {window} over {rows} x {columns} stored pixels of '{images.name}' "
            f"does not give {y.height} x {y.width}"
        )
