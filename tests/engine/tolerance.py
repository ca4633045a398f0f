"""Compares arrays with the one tolerance of floating-point parity tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from emberfleet.core.arrays import Array
from emberfleet.engine.tolerance import tolerance as tolerance


def assert_close(found: Array, expected: Array, length: int, dtype: DTypeLike = np.float32) -> None:
    """Fail unless `found` is `expected` up to `tolerance`; a shape that differs fails too."""
    assert found.shape == expected.shape
    scale = max(float(np.abs(expected).max(initial=0.0)), float(np.finfo(np.dtype(dtype)).tiny))
    worst = float(np.abs(found.astype(np.float64) - expected).max(initial=0.0)) / scale
    allowed = tolerance(length, dtype)
    assert worst <= allowed, f"off by {worst:.2e} of the largest value, {allowed:.2e} allowed"
