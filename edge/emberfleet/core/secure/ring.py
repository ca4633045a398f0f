"""The ring of a secure sum: integers modulo ``2**width``, wide enough that no admitted sum wraps.

A device sends integers within ``±limit``, ``limit = 2**(bits - 1) - 1``; N devices sum to within
``±N * limit``, which is below ``2**(width - 1)`` for ``width = bits + ceil(log2 N)``. The computer's words
are 16 or 32 bits wide and wrap at a multiple of the ring's modulus, so sums are taken in words, and reduced
to `width` bits when they are packed or read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from emberfleet.core.arrays import Array, Int32
from emberfleet.core.errors import ShapeError

MIN_BITS: Final = 2
MAX_BITS: Final = 16
MAX_DEVICES: Final = 1 << 16


@dataclass(frozen=True)
class Ring:
    """The ring for sums of `bits`-bit integers over at most `devices` devices."""

    bits: int
    devices: int

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ShapeError(f"secure sum: {self.bits} bits per value, expected {MIN_BITS} to {MAX_BITS}")
        if not 1 <= self.devices <= MAX_DEVICES:
            raise ShapeError(f"secure sum: {self.devices} devices, expected 1 to {MAX_DEVICES}")

    @cached_property
    def width(self) -> int:
        """Bits of an element: as sent, exactly so many."""
        return self.bits + (self.devices - 1).bit_length()

    @property
    def limit(self) -> int:
        """The largest integer that one device sends; its negative is the smallest."""
        return int((1 << (self.bits - 1)) - 1)

    @cached_property
    def word(self) -> np.dtype[Any]:
        """The computer's type that elements are summed in, little-endian."""
        return np.dtype("<u2" if self.width <= 16 else "<u4")

    @property
    def word_bits(self) -> int:
        """16 or 32."""
        return 8 * self.word.itemsize

    def signed(self, words: Array) -> Int32:
        """The integers from ``-2**(width - 1)`` on that words stand for; bits above `width` are ignored."""
        spare = self.word.type(self.word_bits - self.width)
        as_signed = np.left_shift(words, spare).view(np.dtype(f"<i{self.word.itemsize}"))
        integers: Int32 = as_signed.astype(np.int32)
        return np.right_shift(integers, np.int32(spare), out=integers)
