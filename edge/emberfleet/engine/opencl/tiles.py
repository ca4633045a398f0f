"""Which tile a convolution is computed with: the table of candidates and the default choice.

A tile is what one work-item keeps in registers. Candidates are all that fit; the default is the one
with the best score, which `tuning.py` replaces by what was measured on the device itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

MAX_VECTORS = 4
"""Vectors of output channels in a tile at most."""

BUDGET = MappingProxyType({32: 28, 16: 12})
"""Accumulators of a tile at most, by the processor's vector registers: the rest holds operands."""

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


def forward_candidates(shape: ForwardShape, registers: int) -> tuple[ForwardTile, ...]:
    """All tiles that fit the registers and the image, the best by default first."""
    vectors = shape.outputs // shape.vector
    scored: list[tuple[float, ForwardTile]] = []
    for nv in range(1, MAX_VECTORS + 1):
        if vectors % nv:
            continue
        for mrx in range(1, min(shape.columns, BUDGET[registers] // nv) + 1):
            for mry in (1, 2, 3, 4) if mrx == shape.columns else (1,):
                if mry > shape.rows or mrx * mry * nv > BUDGET[registers]:
                    continue
                useful = shape.columns / (mrx * -(-shape.columns // mrx))
                useful *= shape.rows / (mry * -(-shape.rows // mry))
                speed = _speed(mrx * mry, nv, registers)
                scored.append((useful * speed, ForwardTile(mrx, mry, nv, shape.vector)))
    scored.sort(key=lambda pair: -pair[0])
    return tuple(tile for _, tile in scored)


def weight_candidates(shape: WeightShape, registers: int) -> tuple[WeightTile, ...]:
    """All tiles that fit the registers, the best by default first."""
    vectors = shape.outputs // shape.vector
    scored: list[tuple[float, WeightTile]] = []
    for ky in {1, shape.taps[0]} if shape.taps[0] <= 3 else {1}:
        for nv in (value for value in range(1, MAX_VECTORS + 1) if vectors % value == 0):
            for kc in (value for value in range(1, 17) if shape.channels % value == 0):
                sums = ky * kc * nv
                if sums <= BUDGET[registers]:
                    reuse = sums / (ky * kc + nv) * min(1.0, sums / 8) * (1.0 if ky > 1 else 0.9)
                    scored.append((reuse, WeightTile(ky, kc, nv, shape.vector)))
    scored.sort(key=lambda pair: -pair[0])
    return tuple(tile for _, tile in scored)


def _speed(pixels: int, nv: int, registers: int) -> float:
    """Share of the peak to expect of a tile."""
    if registers == 32:
        known = SPEED[nv]
        nearest = min(known, key=lambda count: abs(count - pixels))
        return known[nearest] * (0.9 if nearest != pixels else 1.0)
    sums = pixels * nv
    return min(1.0, sums / 8) * sums / (sums + 0.5 * (pixels + nv))
