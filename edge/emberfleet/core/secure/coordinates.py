"""Which coordinates of an update a round sums: all, or a random share that everybody computes alike.

With a share of a tenth a device sends a tenth of the bytes. The seed is public and new for each round, so
every coordinate has its turn; since all devices choose the same ones, the sums still compose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from emberfleet.core.arrays import Int64
from emberfleet.core.errors import ShapeError
from emberfleet.core.secure.keystream import SEED_BYTES, draw

ALL: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Coordinates:
    """A random choice of coordinates.

    Attributes:
        seed: 32 public bytes.
        chance: Each coordinate is taken with probability ``chance / 2**32``, on its own; 1 to 2**32.
    """

    seed: bytes
    chance: int

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise ShapeError(f"coordinates: a seed of {len(self.seed)} bytes, expected {SEED_BYTES}")
        if not 1 <= self.chance <= ALL:
            raise ShapeError(f"coordinates: a chance of {self.chance}, expected 1 to {ALL}")

    @classmethod
    def of_share(cls, seed: bytes, share: float) -> Coordinates:
        """Take this share of all, above 0 to 1."""
        if not 0 < share <= 1:
            raise ShapeError(f"coordinates: a share of {share}, expected above 0 to 1")
        return cls(seed, max(1, round(share * ALL)))

    def choose(self, count: int) -> Int64:
        """The coordinates among 0 to ``count - 1`` that draw below the chance, ascending."""
        if self.chance == ALL:
            return np.arange(count, dtype=np.int64)
        drawn = draw(self.seed, count, np.dtype(np.uint32))
        return np.flatnonzero(drawn < np.uint32(self.chance)).astype(np.int64, copy=False)
