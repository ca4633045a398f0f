"""The one tolerance of floating-point parity tests: from the length of the sums and the type."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from emberfleet.core.arrays import Array


def tolerance(length: int, dtype: DTypeLike) -> float:
    """Largest error allowed, relative to the largest expected value, of sums of `length` products.

    Rounding errors of one sum add up like a random walk: ``epsilon * sqrt(length)`` with a factor
    for the worst of many sums, and a few epsilons for what happens before and after the sum.
    Lengths of sums that feed one another add up.
    """
    return float(np.finfo(np.dtype(dtype)).eps) * (8.0 + 4.0 * math.sqrt(length))


def assert_close(found: Array, expected: Array, length: int, dtype: DTypeLike = np.float32) -> None:
    """Fail unless `found` is `expected` up to `tolerance`; a shape that differs fails too."""
    assert found.shape == expected.shape
    scale = max(float(np.abs(expected).max(initial=0.0)), float(np.finfo(np.dtype(dtype)).tiny))
    worst = float(np.abs(found.astype(np.float64) - expected).max(initial=0.0)) / scale
    allowed = tolerance(length, dtype)
    assert worst <= allowed, f"off by {worst:.2e} of the largest value, {allowed:.2e} allowed"
