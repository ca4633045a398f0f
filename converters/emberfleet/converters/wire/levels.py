"""Weights as small whole numbers times one step per output channel, exactly, and their coding contexts.

How large a level is likely to be follows from its output channel and its input channel: both halves of that
forecast travel along as one small number per channel, and choose the table of frequencies.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from emberfleet.core.arrays import Float32, Int8, Int32, Int64
from emberfleet.core.errors import FormatError
from emberfleet.core.quantization import WEIGHT_MAX

CONTEXTS = 32
PER_OCTAVE = 3
"""Contexts for each doubling of the forecast magnitude."""
_SMALLEST = 2.0**-8


class Levels(NamedTuple):
    """``weight = steps[o] * levels`` in float32, exactly."""

    levels: Int32
    """``(O, KH, KW, C)``, -127 to 127."""
    steps: Float32
    """``(O,)``, positive."""


class Forecast(NamedTuple):
    """Mean magnitudes on a logarithmic scale: of output channels, and of input channels against them."""

    outputs: Int8
    """``(O,)``."""
    inputs: Int8
    """``(C,)``."""


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


def forecast_of(levels: Int32) -> Forecast:
    """What the channels of ``(O, KH, KW, C)`` levels say about magnitudes."""
    magnitude = np.abs(levels).astype(np.float64)
    whole = max(float(magnitude.mean()), _SMALLEST)
    return Forecast(
        _logarithm(magnitude.mean(axis=(1, 2, 3))), _logarithm(magnitude.mean(axis=(0, 1, 2)) / whole)
    )


def contexts_of(forecast: Forecast, shape: tuple[int, ...]) -> Int64:
    """Which table of frequencies each level follows, flat: 0 to `CONTEXTS` - 1.

    Raises:
        FormatError: the forecast has not one number per channel.
    """
    o, kh, kw, c = shape
    if forecast.outputs.shape != (o,) or forecast.inputs.shape != (c,):
        raise FormatError("wire: a forecast that has not one number per channel")
    summed = forecast.outputs.astype(np.int64)[:, None, None, None] + forecast.inputs.astype(np.int64)
    steps_down = -PER_OCTAVE * 4
    wide = np.broadcast_to(np.clip(summed - steps_down, 0, CONTEXTS - 1), (o, kh, kw, c))
    return np.ascontiguousarray(wide).reshape(-1)


def _is_multiple(values: Float32, steps: Float32) -> np.ndarray:
    whole = np.rint(values / steps[:, None])
    same: np.ndarray = whole * steps[:, None] == values
    return same


def _logarithm(values: np.ndarray) -> Int8:
    scaled = np.rint(PER_OCTAVE * np.log2(np.maximum(values, _SMALLEST)))
    found: Int8 = np.clip(scaled, -127, 127).astype(np.int8)
    return found
