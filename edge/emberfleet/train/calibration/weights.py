"""Weight ranges of least squared error, one per output channel."""

from __future__ import annotations

import numpy as np

from emberfleet.core.arrays import Float32
from emberfleet.core.quantization import WEIGHT_MAX

FACTORS = np.linspace(1.0, 0.5, 51)
"""Of the largest magnitude: where a channel may be clipped."""


def clip_weights(weights: Float32) -> Float32:
    """Clip each output channel where the rounding to 255 values has the least squared error in all.

    The rule in `core.quantization` takes the scale from the largest magnitude, so clipping the
    weights is choosing their range.

    Args:
        weights: ``(O, KH, KW, C)``.
    """
    rows = weights.reshape(len(weights), -1).astype(np.float64)
    peak = np.abs(rows).max(axis=1, keepdims=True)
    best, least = peak, squared_error(rows, peak)
    for factor in FACTORS[1:]:
        limit = peak * factor
        error = squared_error(rows, limit)
        better = error < least
        best, least = np.where(better, limit, best), np.where(better, error, least)
    clipped: Float32 = np.clip(rows, -best, best).astype(np.float32).reshape(weights.shape)
    return clipped


def squared_error(rows: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Per row of ``(O, n)``, the error of 255 symmetric values up to its limit ``(O, 1)``."""
    scale = np.where(limit > 0, limit / WEIGHT_MAX, 1.0)
    codes = np.clip(np.rint(rows / scale), -WEIGHT_MAX, WEIGHT_MAX)
    found: np.ndarray = ((codes * scale - rows) ** 2).sum(axis=1, keepdims=True)
    return found
