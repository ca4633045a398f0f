"""From changes of weights to integers, rounded up or down at random so that the mean is right.

``q = floor(clamp(change * weight / heaviest / step) + u)``, with the `step` of the update's plan and u
uniform over ``k / 65536``, k from the keystream of the rounding seed. In fixed point, with x the clamped
value: ``(rint(x * 65536) + k) >> 16``. A change of a whole number of steps is sent as it is. On average q
is off by 2**-17 at most, beside what float32 makes of x, which is 2**-23 of it at most.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from emberfleet.core.arrays import Array, Float32
from emberfleet.core.codec import NotFiniteError
from emberfleet.core.errors import ShapeError
from emberfleet.core.secure.keystream import STEP_BYTES, Keystream
from emberfleet.core.secure.layout import SumLayout

FRACTION_BITS: Final = 16
PIECE: Final = STEP_BYTES // 2
"""Values that are rounded at a time: as many 16-bit draws as the keystream makes in a step."""


class Rounder:
    """Rounds the values of one device's vector, one piece after the other."""

    def __init__(self, change: Float32, weight: int, layout: SumLayout, seed: bytes) -> None:
        """Take the whole change, flat, of which the layout's coordinates are sent.

        Raises:
            ShapeError: Another length than the plan's, or another type.
        """
        if change.shape != (layout.plan.size,) or change.dtype != np.float32:
            raise ShapeError(
                f"secure sum: a change of {change.dtype} {change.shape}, "
                f"expected float32 ({layout.plan.size},)"
            )
        self._change, self._layout = change, layout
        self._share = weight / layout.heaviest
        self._draws = Keystream(seed)
        self._bytes = np.empty(STEP_BYTES, np.uint8)
        self._scaled = np.empty(PIECE, np.float32)
        self._fixed = np.empty(PIECE, np.int32)

    def fill(self, out: Array, begin: int) -> None:
        """Write the integers from `begin` on as words of the ring; to be called in order, without gaps.

        Raises:
            NotFiniteError: The training diverged: a value is NaN or infinite.
        """
        for start in range(0, out.size, PIECE):
            self._fill_piece(out[start : start + PIECE], begin + start)

    def _fill_piece(self, out: Array, begin: int) -> None:
        size = out.size
        scaled, fixed, draws = self._scaled[:size], self._fixed[:size], self._bytes[: 2 * size]
        self._scale(scaled, begin)
        np.rint(scaled, out=scaled)
        np.copyto(fixed, scaled, casting="unsafe")
        self._draws.fill(draws)
        np.add(fixed, draws.view("<u2"), out=fixed)
        np.right_shift(fixed, FRACTION_BITS, out=fixed)
        np.copyto(out, fixed, casting="unsafe")

    def _scale(self, scaled: Float32, begin: int) -> None:
        end, chosen, limit = begin + scaled.size, self._layout.chosen, self._layout.ring.limit
        if chosen is None:
            taken = self._change[begin:end]
        else:
            taken = np.take(self._change, chosen[begin:end], out=scaled, mode="clip")
        if not (np.isfinite(taken.max(initial=0.0)) and np.isfinite(taken.min(initial=0.0))):
            raise NotFiniteError("secure sum: the change holds NaN or an infinity: the training diverged")
        largest = self._share * limit * (1 << FRACTION_BITS)
        with np.errstate(over="ignore", under="ignore"):
            for start, stop, clip in self._layout.clips(begin, end):
                part = slice(start - begin, stop - begin)
                np.multiply(taken[part], np.float32(largest / clip), out=scaled[part])
        np.clip(scaled, np.float32(-largest), np.float32(largest), out=scaled)


def round_change(change: Float32, samples: int, layout: SumLayout, seed: bytes) -> Array:
    """All of a device's integers, as `mask_update` sends them under its masks: what error feedback subtracts.

    Returns:
        ``(layout.values,)`` words of the ring; `Ring.signed` gives the integers.
    """
    words = np.empty(layout.values, layout.ring.word)
    Rounder(change, layout.weigh(samples), layout, seed).fill(words, 0)
    return words
