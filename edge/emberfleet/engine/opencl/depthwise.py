"""Depthwise convolution and its gradients: chooses tiles, cuts the work into groups, records the launches."""

from __future__ import annotations

import math
from dataclasses import dataclass

from emberfleet.core.nodes import Padding
from emberfleet.engine.opencl.conv2d import Epilogue, Weight, Window, check_window
from emberfleet.engine.opencl.layout import Place, View
from emberfleet.engine.opencl.limits import LANE_REGISTERS
from emberfleet.engine.opencl.program import ARENA, Program

SOURCE = "depthwise"

MOST_TAPS, MOST_STRIDE = 49, 3
"""Windows and strides beyond these are computed by the naive kernels: unrolled they would be too long."""

SUMS = {32: 8, 16: 4, LANE_REGISTERS: 4}
"""Sums of a tile at most, by the vector registers: window, neighbours and sums share them."""

MOST_PRODUCTS = 100
"""Of a tile at most: all are written out, and compiling takes time."""

MOST_ACROSS = 4
"""Pixels side by side in a tile at most."""


@dataclass(frozen=True, slots=True)
class DepthwiseTile:
    """Compile-time constants of depthwise.cl: window, stride, pixels across and down, floats per vector."""

    kh: int
    kw: int
    sy: int
    sx: int
    mrx: int
    mry: int
    v: int

    @property
    def numbers(self) -> tuple[int, int, int, int, int, int, int]:
        """All of them in order."""
        return self.kh, self.kw, self.sy, self.sx, self.mrx, self.mry, self.v


@dataclass(frozen=True, slots=True)
class DepthwiseWork:
    """What a launch computes: see `program.Work`."""

    window: Window
    x: View
    y: View
    read_again: bool = False
    """Whether what is written is added to."""
    parts: int = 1
    """Partial sums of the weight gradient."""

    @property
    def flops(self) -> int:
        """See `program.Work`."""
        return 2 * math.prod(self.window.kernel) * self.y.size

    @property
    def values_moved(self) -> int:
        """See `program.Work`."""
        weights = self.parts * math.prod(self.window.kernel) * self.y.padded_channels
        return self.x.size * (2 if self.read_again else 1) + self.y.size + weights


def forward(program: Program, x: View, weight: Weight, y: View, window: Window, epilogue: Epilogue) -> None:
    """Record ``y = act(bias + x convolved channel by channel)``; x's halo must be as wide as the padding."""
    check_window(x, y, window)
    tile = choose_tile(program, window, y.height, y.width)
    blocks = -(-y.height // (tile.mry if tile else 1))
    panels, cut = cut_rows(program, x.batch, blocks, y)
    bias = epilogue.bias or (weight.buffer, 0)
    program.emit(
        SOURCE,
        "depthwise_forward_f32" if tile else "depthwise_forward_any_f32",
        (-(-cut[2] // cut[0]), panels),
        *(ARENA, weight.buffer, bias[0], ARENA, stored(x, -window.up, -window.left), y),
        (y.height, y.width),
        cut,
        (weight.offset, weight.padded_outputs, bias[1], epilogue.flags),
        *epilogue.numbers,
        *(() if tile else ((*window.kernel, *window.stride),)),
        options=tile,
        work=DepthwiseWork(window, x, y),
    )


def halo_back(window: Window, size: tuple[int, int], made: tuple[int, int]) -> Padding:
    """Zeros around the gradient of the output that `backward_input` reads.

    Args:
        window: Of the forward convolution.
        size: Rows and pixels of its input.
        made: Of its output.
    """
    if not _unrolled(window):
        return (0, 0, 0, 0)
    before, after = [], []
    for k, s, pad, extent, count in zip(
        window.kernel, window.stride, (window.up, window.left), size, made, strict=True
    ):
        before.append(max(0, -(-k // s) - 1 - pad // s))
        after.append(max(0, (extent - 1 + pad) // s - (count - 1)))
    return (before[0], before[1], after[0], after[1])


def backward_input(
    program: Program, dy: View, weight: Weight, dx: View, window: Window, accumulate: bool
) -> None:
    """Record the gradient of the input (or add it to `dx`); dy's halo must be that of `halo_back`."""
    starts = [pad // s for pad, s in zip((window.up, window.left), window.stride, strict=True)]
    inside = (window.up - starts[0] * window.stride[0], window.left - starts[1] * window.stride[1])
    places = [
        (extent - 1 + first) // s + 1
        for extent, first, s in zip((dx.height, dx.width), inside, window.stride, strict=True)
    ]
    tile = choose_tile(program, window, places[0], places[1], math.prod(window.stride))
    blocks = -(-places[0] // tile.mry) if tile else dx.height
    panels, cut = cut_rows(program, dx.batch, blocks, dx)
    if tile:
        reach = [-(-k // s) - 1 for k, s in zip(window.kernel, window.stride, strict=True)]
        source = stored(dy, starts[0] - reach[0], starts[1] - reach[1])
        size, last = (dx.height, dx.width, *inside), (places[0], places[1])
    else:
        source, size = dy.place(), (dx.height, dx.width, dy.height, dy.width)
        last = (window.up, window.left)
    program.emit(
        SOURCE,
        "depthwise_backward_input_f32" if tile else "depthwise_backward_input_any_f32",
        (-(-cut[2] // cut[0]), panels),
        *(ARENA, weight.buffer, ARENA, source, dx, size, cut),
        (weight.offset, weight.padded_outputs, *last),
        int(accumulate),
        *(() if tile else ((*window.kernel, *window.stride),)),
        options=tile,
        work=DepthwiseWork(window, dx, dy, read_again=accumulate),
    )


def weight_parts(program: Program, dy: View, window: Window) -> int:
    """Into how many partial sums `backward_weight` cuts the gradient of the weights."""
    return _cut_weight(program, dy, choose_tile(program, window, dy.height, dy.width))[0]


def backward_weight(program: Program, x: View, dy: View, window: Window, target: tuple[int, int]) -> None:
    """Record the partial sums of the weight gradient into the buffer `gradients`.

    Args:
        program: Takes the launch.
        x: Input of the convolution, with the halo of the forward pass.
        dy: Gradient of its output.
        window: Of the forward convolution.
        target: Offset of the first partial sum, floats from one to the next.
    """
    tile = choose_tile(program, window, dy.height, dy.width)
    parts, cut = _cut_weight(program, dy, tile)
    panels, taps = dy.padded_channels // cut[3], math.prod(window.kernel)
    program.emit(
        SOURCE,
        "depthwise_backward_weight_f32" if tile else "depthwise_backward_weight_any_f32",
        (parts, panels) if tile else (parts, panels, taps),
        *(ARENA, ARENA, "gradients", stored(x, -window.up, -window.left), dy),
        (dy.height, dy.width),
        cut,
        (*target, dy.padded_channels, 0),
        *(() if tile else ((*window.kernel, *window.stride),)),
        options=tile,
        work=DepthwiseWork(window, x, dy, parts=parts),
    )


def repeat_channels(program: Program, x: View, times: int, halo: Padding) -> View:
    """Record each channel of `x` that many times, side by side in a new tensor; `x` itself for once."""
    if times == 1:
        return x
    shape = (x.height, x.width, x.channels * times)
    y = program.images(f"{x.images.label} repeated", shape, halo)
    y.images.leave_gaps()
    size, parts = program.parts(y)
    program.emit(SOURCE, "repeat_channels_f32", (parts,), ARENA, ARENA, x, y, size, y.channels, times)
    return y


def sum_channels(program: Program, dy: View, dx: View, times: int, accumulate: bool) -> None:
    """Record the gradient of `repeat_channels`, or add it to `dx`."""
    dx.images.leave_gaps()
    size, parts = program.parts(dy)
    program.emit(
        SOURCE, "sum_channels_f32", (parts,),
        ARENA, ARENA, dy, dx, size, dx.channels, times, int(accumulate),
    )  # fmt: skip


def _unrolled(window: Window) -> bool:
    """Whether window and stride are known to the kernel when it is compiled."""
    return math.prod(window.kernel) <= MOST_TAPS and max(window.stride) <= MOST_STRIDE


def choose_tile(
    program: Program, window: Window, rows: int, columns: int, spread: int = 1
) -> DepthwiseTile | None:
    """The tile that wastes least of the image and, among those, has most pixels; None: the naive kernel.

    Args:
        program: The device's registers count.
        window: Of the convolution.
        rows: Of what the tile moves over.
        columns: Of what the tile moves over.
        spread: Sums for each place that it moves over.
    """
    if not _unrolled(window):
        return None
    taps = math.prod(window.kernel)
    most = max(1, min(SUMS[program.device.limits.vector_registers] // spread, MOST_PRODUCTS // taps))
    gpu = program.device.lanes > 1

    def cost(shape: tuple[int, int]) -> tuple[float, int]:
        across, down = shape
        waste = across * -(-columns // across) / columns * down * -(-rows // down) / rows
        reads = ((across - 1) * window.stride[1] + window.kernel[1]) / across
        reads *= ((down - 1) * window.stride[0] + window.kernel[0]) / down
        return waste * (taps + 2.0 * reads), -across * down

    shapes = [
        (across, down)
        for across in range(1, min(columns, most, MOST_ACROSS) + 1)
        for down in range(1, min(rows, most // across, 2) + 1)
        if not gpu or (across * down) & (across * down - 1) == 0
    ]
    across, down = min(shapes, key=cost)
    return DepthwiseTile(*window.kernel, *window.stride, across, down, program.vector)


def cut_rows(program: Program, batch: int, blocks: int, view: View) -> tuple[int, tuple[int, int, int, int]]:
    """Panels of channels, and for the kernel: blocks per group, of an image, in all, channels of a panel."""
    device, vectors = program.device, view.padded_channels // program.vector
    everything = batch * blocks
    span = device.span(vectors)
    wanted = -(-device.busy_groups // everything)
    panels = min((n for n in range(1, vectors // span + 1) if vectors % (n * span) == 0 and n >= wanted),
                 default=vectors // span)  # fmt: skip
    each = max(1, everything * panels // device.busy_groups)
    return panels, (each, blocks, everything, vectors // panels * program.vector)


def _cut_weight(
    program: Program, dy: View, tile: DepthwiseTile | None
) -> tuple[int, tuple[int, int, int, int]]:
    """Parts of the rows, and the same as `_cut`: few parts, since each leaves sums to add up."""
    device, vectors = program.device, dy.padded_channels // program.vector
    blocks = -(-dy.height // (tile.mry if tile else 1))
    everything, span, wanted = dy.batch * blocks, device.span(vectors), device.summing_groups
    panels = max(
        n for n in range(1, vectors // span + 1) if vectors % (n * span) == 0 and n <= max(1, wanted // 2)
    )
    each = -(-everything // min(everything, -(-wanted // panels)))
    return -(-everything // each), (each, blocks, everything, vectors // panels * program.vector)


def stored(view: View, down: int, across: int) -> Place:
    """A tensor from a stored pixel near its first on, in steps of stored rows and pixels."""
    images, first = view.images, view.place()
    start = first.start + down * images.padded_row + across * images.channels
    return Place(images, start, first.image, images.padded_row, images.channels)
