"""Weights as small whole numbers times one step per output channel, exactly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from emberfleet.core.arrays import Float32, Int32
from emberfleet.core.quantization import WEIGHT_MAX


class Levels(NamedTuple):
    """``weight = steps[o] * levels`` in float32, exactly."""

    levels: Int32
    """``(O, KH, KW, C)``, -127 to 127."""
    steps: Float32
    """``(O,)``, positive."""


def exact_levels(weight: Float32) -> Levels | None:
    """The levels of a weight ``(O, KH, KW, C)`` that is made of them, the coarsest; None where it is not."""
    rows = weight.reshape(len(weight), -1)
    peak = np.abs(rows).max(axis=1)
    steps = np.where(peak > 0, np.float32(0), np.float32(1)).astype(np.float32)
    levels = np.zeros(rows.shape, np.int32)
    for most in range(1, WEIGHT_MAX + 1):
        for nudge in (0, -1, 1, -2, 2):
            open_rows = np.flatnonzero(steps == 0)
            if not len(open_rows):
                return Levels(levels.reshape(weight.shape), steps)
            step = (peak[open_rows] / np.float32(most)).astype(np.float32)
            step = (step.view(np.int32) + np.int32(nudge)).view(np.float32)
            usable = step > 0
            safe = np.where(usable, step, np.float32(1))
            # A few values rule out most candidates before whole rows are looked at.
            sample = rows[open_rows, :: max(1, rows.shape[1] // 8)]
            fits = usable & _is_multiple(sample, safe).all(axis=1)
            open_rows, safe = open_rows[fits], safe[fits]
            whole = _is_multiple(rows[open_rows], safe).all(axis=1)
            open_rows, safe = open_rows[whole], safe[whole]
            levels[open_rows] = np.rint(rows[open_rows] / safe[:, None]).astype(np.int32)
            steps[open_rows] = safe
    return Levels(levels.reshape(weight.shape), steps) if (steps > 0).all() else None


def weights_of(found: Levels) -> Float32:
    """The weights that levels stand for."""
    weight: Float32 = found.levels.astype(np.float32) * found.steps[:, None, None, None]
    return weight


def _is_multiple(values: Float32, steps: Float32) -> np.ndarray:
    whole = np.rint(values / steps[:, None])
    same: np.ndarray = whole * steps[:, None] == values
    return same
