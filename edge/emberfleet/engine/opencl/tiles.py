"""Which tile a convolution is computed with: the table of candidates and the default choice.

A tile is what one work-item keeps in registers. Candidates are all that fit; the default is the one
with the best score, which `tuning.py` replaces by what was measured on the device itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from emberfleet.engine.opencl.limits import LANE_REGISTERS

MAX_VECTORS, MAX_ROWS = 4, 4
"""Vectors of output channels and rows of pixels in a tile at most."""

MAX_TAPS, MAX_CHANNELS = 3, 16
"""Window rows and input channels in a tile of the weight gradient at most."""

BUDGET = MappingProxyType({32: 28, 16: 12, LANE_REGISTERS: LANE_REGISTERS})
"""Accumulators of a tile at most, by the processor's vector registers: the rest holds operands. A lane of
the gpu family counts its accumulators alone."""

MAX_STREAMS = 8
"""Places of the input that a weight gradient reads side by side: more need more address registers."""

SPEED: Mapping[int, Mapping[int, float]] = MappingProxyType(
    {
        1: {4: 0.6, 5: 0.65, 6: 0.67, 7: 0.72, 8: 0.77, 9: 0.76, 10: 0.75, 11: 0.76, 13: 0.74, 16: 0.76},
        2: {2: 0.6, 3: 0.75, 4: 0.88, 5: 0.86, 6: 0.88, 7: 0.93, 8: 1.0, 9: 0.94, 10: 0.91, 12: 0.8},
        3: {2: 0.75, 3: 0.88, 4: 0.97, 5: 0.95, 6: 0.92, 7: 0.92, 8: 0.8},
        4: {2: 0.88, 3: 0.93, 4: 1.0, 5: 0.96, 6: 0.91},
    }
)
"""Share of the peak by vectors of outputs and pixels, measured on Zen 5 with 512-bit vectors: more than
eight pixels need more address registers than there are, fewer than eight sums wait for each other."""


@dataclass(frozen=True, slots=True)
class ForwardTile:
    """A tile of `conv2d_forward_f32`: pixels across, down, vectors of output channels."""

    mrx: int
    mry: int
    nv: int
    v: int


@dataclass(frozen=True, slots=True)
class WeightTile:
    """A tile of `conv2d_backward_weight_f32`: window rows, input channels, vectors of output channels."""

    ky: int
    kc: int
    nv: int
    v: int


@dataclass(frozen=True, slots=True)
class ForwardShape:
    """What decides the tile of a forward convolution: the loops of the kernel."""

    taps: tuple[int, int]
    channels: int
    outputs: int
    """Padded."""
    images: int
    rows: int
    columns: int
    vector: int


@dataclass(frozen=True, slots=True)
class WeightShape:
    """What decides the tile of a weight gradient."""

    taps: tuple[int, int]
    channels: int
    outputs: int
    """Padded."""
    rows: int
    """Of all images together."""
    columns: int
    vector: int


def forward_fits(shape: ForwardShape, tile: ForwardTile, registers: int) -> bool:
    """Whether a tile fits the registers, the channels and the image: rows only of whole width."""
    return (
        min(tile.mrx, tile.mry, tile.nv) >= 1
        and tile.nv <= MAX_VECTORS
        and tile.v == shape.vector
        and shape.outputs % (tile.nv * tile.v) == 0
        and tile.mrx <= shape.columns
        and tile.mry <= (min(MAX_ROWS, shape.rows) if tile.mrx == shape.columns else 1)
        and tile.mrx * tile.mry * tile.nv <= BUDGET[registers]
        and not _too_odd(tile.mrx * tile.mry * tile.nv, registers)
    )


def weight_fits(shape: WeightShape, tile: WeightTile, registers: int) -> bool:
    """Whether a tile fits the registers, the channels and the window."""
    return (
        min(tile.ky, tile.kc, tile.nv) >= 1
        and tile.nv <= MAX_VECTORS
        and tile.v == shape.vector
        and shape.outputs % (tile.nv * tile.v) == 0
        and tile.kc <= MAX_CHANNELS
        and shape.channels % tile.kc == 0
        and tile.ky in (1, shape.taps[0])
        and tile.ky <= MAX_TAPS
        and tile.ky * tile.kc * tile.nv <= BUDGET[registers]
        and not _too_odd(tile.kc * tile.nv, registers)
    )


@cache
def forward_candidates(shape: ForwardShape, registers: int, within: float = 0.0) -> tuple[ForwardTile, ...]:
    """The tiles that fit and whose score is `within` of the best, the best by default first."""
    scored: list[tuple[float, ForwardTile]] = []
    for nv in range(1, MAX_VECTORS + 1):
        for mrx in range(1, min(shape.columns, BUDGET[registers] // nv) + 1):
            for mry in range(1, MAX_ROWS + 1):
                tile = ForwardTile(mrx, mry, nv, shape.vector)
                if forward_fits(shape, tile, registers):
                    useful = shape.columns / (mrx * -(-shape.columns // mrx))
                    useful *= shape.rows / (mry * -(-shape.rows // mry))
                    scored.append((useful * _speed(mrx * mry, nv, registers), tile))
    scored.sort(key=lambda pair: -pair[0])
    return tuple(tile for score, tile in scored if score >= within * scored[0][0])


@cache
def weight_candidates(shape: WeightShape, registers: int, within: float = 0.0) -> tuple[WeightTile, ...]:
    """The tiles that fit and whose score is `within` of the best, the best by default first."""
    scored: list[tuple[float, WeightTile]] = []
    for ky in sorted({1, shape.taps[0]}):
        for nv in range(1, MAX_VECTORS + 1):
            for kc in range(1, MAX_CHANNELS + 1):
                tile = WeightTile(ky, kc, nv, shape.vector)
                if weight_fits(shape, tile, registers):
                    sums = ky * kc * nv
                    reuse = sums / (ky * kc + nv) * min(1.0, sums / 8) * (1.0 if ky > 1 else 0.9)
                    reuse *= 1.0 if ky * kc <= MAX_STREAMS else 0.75
                    scored.append((reuse, tile))
    scored.sort(key=lambda pair: -pair[0])
    return tuple(tile for score, tile in scored if score >= within * scored[0][0])


def _too_odd(number: int, registers: int) -> bool:
    """Whether a tile is none of the few worth compiling for a GPU: all their sides are powers of two."""
    return registers == LANE_REGISTERS and number & (number - 1) != 0


def _speed(pixels: int, nv: int, registers: int) -> float:
    """Share of the peak to expect of a tile."""
    if registers == 32:
        known = SPEED[nv]
        nearest = min(known, key=lambda count: abs(count - pixels))
        return known[nearest] * (0.9 if nearest != pixels else 1.0)
    sums = pixels * nv
    return min(1.0, sums / 8) * sums / (sums + 0.5 * (pixels + nv))
