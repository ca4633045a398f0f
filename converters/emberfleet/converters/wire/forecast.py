"""What a level is likely to be, from what the reader knows before it: a value, and how far off it may be.

The taps of one kernel window are alike: each is forecast from those before it by a linear rule, one per
tensor and tap. How far off the forecast is follows from the output channel, the input channel and the tap
(one small number each), and from how far off it was at the earlier taps; that chooses the table of
frequencies. All of it is done in whole numbers, so that every reader forecasts the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from emberfleet.core.arrays import Float64, Int8, Int32, Int64
from emberfleet.core.errors import FormatError

CONTEXTS: Final = 32
PER_OCTAVE: Final = 3
"""Contexts for each doubling of the expected error."""
REACH: Final = 8
"""Earlier taps that a forecast looks at: all of a 3 x 3 window."""
MAX_TAPS: Final = 121
_UNIT: Final = 6
"""Coefficients are in 64ths."""
_FINE: Final = 4 * PER_OCTAVE
_STEP: Final = _FINE // PER_OCTAVE
_LOWEST: Final = -4 * _FINE
_HIGHEST: Final = 8 * _FINE
_PRIOR: Final = 4
"""Earlier taps that the channels' numbers count for."""
_SMALLEST: Final = 2.0**-8


class Forecast(NamedTuple):
    """Mean errors, on a logarithmic scale, of output channels, input channels and taps; rules."""

    outputs: Int8
    """``(O,)``."""
    inputs: Int8
    """``(C,)``, against the output channels."""
    taps: Int8
    """``(T,)``, against the channels."""
    rules: Int8
    """``(T, REACH)``: what tap t takes of the level at tap ``t - 1 - r``, in 64ths."""


class Group:
    """Tensors of the same number of taps, forecast side by side, one tap after another.

    Rows are the ``(o, c)`` of all tensors, in this order.

    Raises:
        FormatError: a forecast that does not fit its tensor.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], forecasts: Sequence[Forecast]) -> None:
        self.taps = shapes[0][1] * shapes[0][2]
        sums, taps, rules = [], [], []
        for (o, kh, kw, c), forecast in zip(shapes, forecasts, strict=True):
            fits = forecast.outputs.shape == (o,) and forecast.inputs.shape == (c,)
            fits = fits and forecast.taps.shape == (kh * kw,) and kh * kw == self.taps
            if not fits or forecast.rules.shape != (self.taps, REACH):
                raise FormatError("wire: a forecast that has not one number per channel and rule")
            sums.append(np.add.outer(forecast.outputs.astype(np.int64), forecast.inputs).reshape(-1))
            taps.append(forecast.taps)
            rules.append(forecast.rules)
        self._sizes = [len(each) for each in sums]
        self._rules = np.stack(rules).astype(np.int64)
        self._fine_taps = np.clip(np.stack(taps).astype(np.int64) * _STEP, _LOWEST, -_LOWEST)
        fine = np.clip(np.concatenate(sums) * _STEP, _LOWEST, _HIGHEST)
        # Sixteen times the errors, as a tap like the mean of all would have made them.
        self._missed = _PRIOR * _EXPECTED[fine - _LOWEST]
        self._levels = np.zeros((self.taps, len(fine)), np.int64)
        self._tap = 0

    def ahead(self) -> tuple[Int64, Int64]:
        """The forecast of every row's next level, and the context of its error."""
        forecast = np.full(self._levels.shape[1], 1 << (_UNIT - 1), np.int64)
        for r in range(min(self._tap, REACH)):
            rule = self._rules[:, self._tap, r]
            if rule.any():
                forecast += np.repeat(rule, self._sizes) * self._levels[self._tap - 1 - r]
        # No logarithm of a whole number lies so near a half that machines could round it differently.
        fine = np.rint(_FINE * np.log2(self._missed / (16.0 * (self._tap + _PRIOR)))).astype(np.int64)
        fine += np.repeat(self._fine_taps[:, self._tap], self._sizes)
        return forecast >> _UNIT, np.clip((fine - _LOWEST) // _STEP, 0, CONTEXTS - 1)

    def learn(self, levels: Int64, errors: Int64) -> None:
        """Take the levels of one tap, and how far off the forecasts were."""
        self._levels[self._tap] = levels
        scale = _EXPECTED[-self._fine_taps[:, self._tap] - _LOWEST]
        self._missed += np.repeat(scale, self._sizes) * np.abs(errors)
        self._tap += 1

    def tensors(self, shapes: Sequence[tuple[int, ...]]) -> list[Int32]:
        """The levels learnt, tensor by tensor, ``(O, KH, KW, C)``."""
        cuts = np.cumsum(self._sizes)[:-1]
        return [
            part.reshape(kh, kw, o, c).transpose(2, 0, 1, 3).astype(np.int32)
            for part, (o, kh, kw, c) in zip(np.split(self._levels, cuts, axis=1), shapes, strict=True)
        ]


def tap_rows(levels: Sequence[Int32]) -> Int64:
    """``(T, rows)`` of a group: the order in which levels are coded."""
    parts = [each.transpose(1, 2, 0, 3).reshape(each.shape[1] * each.shape[2], -1) for each in levels]
    return np.concatenate(parts, axis=1).astype(np.int64)


def forecast_of(levels: Int32) -> Forecast:
    """The rules that forecast ``(O, KH, KW, C)`` levels with the least squared error, and what they leave."""
    rows = tap_rows([levels])
    o, kh, kw, c = levels.shape
    # Rows count alike, however large their levels are.
    weight = 1.0 / (np.abs(rows).mean(axis=0) + 0.5)
    rules = _fitted(rows * weight)
    missed = np.empty(rows.shape)
    for t in range(len(rows)):
        near = [rows[t - 1 - r] * int(rules[t, r]) for r in range(min(t, REACH))]
        missed[t] = rows[t] - ((sum(near, np.int64(0)) + (1 << (_UNIT - 1))) >> _UNIT)
    magnitude = np.abs(missed).reshape(kh * kw, o, c)
    whole = max(float(magnitude.mean()), _SMALLEST)
    return Forecast(
        _logarithm(magnitude.mean(axis=(0, 2))),
        _logarithm(magnitude.mean(axis=(0, 1)) / whole),
        _logarithm(magnitude.mean(axis=(1, 2)) / whole),
        rules,
    )


def _fitted(rows: Float64) -> Int8:
    moments = rows @ rows.T
    rules = np.zeros((len(rows), REACH), np.int8)
    for t in range(1, len(rows)):
        near = np.arange(t - 1, max(-1, t - 1 - REACH), -1)
        held = moments[np.ix_(near, near)] + np.eye(len(near)) * (1e-3 * moments[t, t] + 1e-9)
        found = np.linalg.solve(held, moments[near, t])
        rules[t, : len(near)] = np.clip(np.rint(found * (1 << _UNIT)), -128, 127).astype(np.int8)
    return rules


def _logarithm(values: Float64) -> Int8:
    scaled = np.rint(PER_OCTAVE * np.log2(np.maximum(values, _SMALLEST)))
    found: Int8 = np.clip(scaled, -127, 127).astype(np.int8)
    return found


_EXPECTED: Final = np.rint(16.0 * 2.0 ** (np.arange(_LOWEST, _HIGHEST + 1) / _FINE)).astype(np.int64)
