"""What stands where in the vector that a round sums.

First the chosen coordinates of the update, in the plan's order; then the device's weight, in as many digits
as the heaviest weight takes, the lowest first, to base ``2**(bits - 1)``: a digit is at most the largest
integer that a device sends, so digits sum in the same ring, and the sum of all weights is exact.

A device weighs as many samples as it has, up to `heaviest`. It sends ``weight / heaviest`` of its change, so
that the weighted sum, too, stays within what the ring admits.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from emberfleet.core.arrays import Int64
from emberfleet.core.errors import ShapeError
from emberfleet.core.secure.coordinates import Coordinates
from emberfleet.core.secure.packing import packed_bytes
from emberfleet.core.secure.ring import Ring
from emberfleet.core.updates import UpdatePlan

MAX_WEIGHT: Final = 1_000_000


@dataclass(frozen=True)
class SumLayout:
    """The vector of one round.

    Attributes:
        plan: The update's tensors, with 8 or 16 bits per value.
        devices: The most that may be summed: the cohort.
        heaviest: The largest weight of a device; 1: all weigh the same.
        coordinates: Which coordinates are summed; None: all.
    """

    plan: UpdatePlan
    devices: int
    heaviest: int = 1
    coordinates: Coordinates | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.heaviest <= MAX_WEIGHT:
            raise ShapeError(f"secure sum: a heaviest weight of {self.heaviest}, expected 1 to {MAX_WEIGHT}")
        _ = self.ring

    @cached_property
    def ring(self) -> Ring:
        """The ring that everything is summed in."""
        return Ring(self.plan.bits, self.devices)

    @cached_property
    def chosen(self) -> Int64 | None:
        """The coordinates that are summed, ascending; None: all."""
        return None if self.coordinates is None else self.coordinates.choose(self.plan.size)

    @property
    def values(self) -> int:
        """How many coordinates are summed."""
        return self.plan.size if self.chosen is None else int(self.chosen.size)

    @property
    def digits(self) -> int:
        """How many digits a weight takes."""
        return -(-self.heaviest.bit_length() // (self.plan.bits - 1))

    @property
    def size(self) -> int:
        """The length of the vector."""
        return self.values + self.digits

    @property
    def size_bytes(self) -> int:
        """The exact length of a masked update."""
        return packed_bytes(self.size, self.ring)

    @cached_property
    def spans(self) -> tuple[tuple[int, float], ...]:
        """For each tensor where its values end in the vector, and its clip."""
        ends = [(span.stop, tensor.clip) for tensor, span in self.plan.spans()]
        if self.chosen is None:
            return tuple(ends)
        places = np.searchsorted(self.chosen, [end for end, _ in ends])
        return tuple((int(place), clip) for place, (_, clip) in zip(places, ends, strict=True))

    def clips(self, begin: int, end: int) -> list[tuple[int, int, float]]:
        """The tensors in part of the vector: begin, end and clip of each."""
        found = []
        for stop, clip in self.spans[bisect_left(self.spans, (begin + 1, 0.0)) :]:
            if begin >= end:
                break
            found.append((begin, min(stop, end), clip))
            begin = stop
        return found

    def weigh(self, samples: int) -> int:
        """The weight of a device with so many samples."""
        if samples < 1:
            raise ShapeError(f"secure sum: a weight of {samples} samples, expected at least 1")
        return min(samples, self.heaviest)

    def write_weight(self, weight: int) -> list[int]:
        """The digits of a weight."""
        base = self.plan.bits - 1
        return [(weight >> (base * place)) & self.ring.limit for place in range(self.digits)]

    def read_weight(self, sums: list[int]) -> int:
        """The sum of all weights, from the sums of their digits."""
        base = self.plan.bits - 1
        return sum(total << (base * place) for place, total in enumerate(sums))
