"""Counts of a tensor's values, and the 8-bit range that keeps them best."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from emberfleet.core.arrays import Float64, Int64, Real
from emberfleet.core.quantization import QMAX, QMIN, QuantParams

BINS = 4096
"""Sixteen to one 8-bit step, so that a step's own rounding is seen."""
STEPS = 100
"""Candidates on each side of zero, the widest being the extreme value."""
NARROWEST = 0.05
"""Of the extreme value: no candidate is below it."""


class Range(NamedTuple):
    """Real numbers that 8 bits are spread over."""

    low: float
    high: float


class Histogram:
    """How often values fall into equal bins between a known smallest and largest one."""

    def __init__(self, low: float, high: float) -> None:
        self.low = min(low, 0.0)
        self.high = max(high, 0.0, self.low + 1e-6)
        self.counts: Int64 = np.zeros(BINS, np.int64)

    def add(self, values: Real) -> None:
        """Count values; those outside fall into the first or the last bin."""
        scale = BINS / (self.high - self.low)
        bins = ((values.ravel() - values.dtype.type(self.low)) * values.dtype.type(scale)).astype(np.int32)
        self.counts += np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)

    @property
    def centres(self) -> Float64:
        """The middle of every bin."""
        middles = self.low + (np.arange(BINS, dtype=np.float64) + 0.5) * ((self.high - self.low) / BINS)
        return middles.astype(np.float64)

    def percentile(self, percent: float) -> Range:
        """The range that leaves ``100 - percent`` percent of the values out on each side that has any."""
        total = np.cumsum(self.counts)
        left_out = total[-1] * (100.0 - percent) / 100.0
        first = int(np.searchsorted(total, left_out, side="right"))
        last = int(np.searchsorted(total, total[-1] - left_out, side="left"))
        edges = self.low + np.arange(BINS + 1) * ((self.high - self.low) / BINS)
        return Range(min(float(edges[first]), 0.0), max(float(edges[last + 1]), 0.0))

    def squared_error(self, chosen: Range) -> float:
        """Sum of squared differences between the values and their 8-bit neighbours."""
        used = np.flatnonzero(self.counts)
        error = rounding_error(self.centres[used], QuantParams.from_range(*chosen))
        return float((self.counts[used] * error**2).sum())

    def least_error(self) -> Range:
        """The range of least squared error, searched from the extremes inwards, one side after the other."""
        best = Range(self.low, self.high)
        least = self.squared_error(best)
        for _ in range(2):
            for side in (1, 0):
                for candidate in candidates(best, Range(self.low, self.high), side):
                    error = self.squared_error(candidate)
                    if error < least:
                        best, least = candidate, error
            if self.low == 0.0 or self.high == 0.0:
                break
        return best


def candidates(now: Range, widest: Range, side: int) -> list[Range]:
    """`now` with its low (side 0) or high (side 1) moved from the widest towards zero."""
    if widest[side] == 0.0:
        return []
    moved = widest[side] * np.linspace(1.0, NARROWEST, STEPS)
    return [Range(now.low, float(v)) if side else Range(float(v), now.high) for v in moved]


def rounding_error(values: Float64, params: QuantParams) -> Float64:
    """Difference that 8 bits make, per value, in float64."""
    codes = np.clip(np.rint(values / params.scale) + params.zero_point, QMIN, QMAX)
    error: Float64 = (codes - params.zero_point) * params.scale - values
    return error
