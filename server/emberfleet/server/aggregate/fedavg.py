"""Federated averaging: the weighted mean of updates, one at a time.

``mean = sum over devices of weight * update / sum of weights`` (McMahan et al. 2017, arXiv:1602.05629,
algorithm 1, with weight = number of samples). Each update is added as it arrives and can then be
forgotten: memory is one sum and one update, whatever the cohort.

Integers are summed as integers, so the mean does not depend on the order of arrival, not even in its
last bit. Floats are summed in float64.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from emberfleet.core.arrays import Array, Float64
from emberfleet.core.errors import RoundError, ShapeError

BLOCK: Final = 1 << 15
"""Values per step: the sum, the update and the product of a block stay in the processor's cache."""
MAX_WEIGHT: Final = 1_000_000
MAX_TOTAL_WEIGHT: Final = 1 << 47
"""Keeps an int64 sum of int16 values from wrapping."""


class WeightedMean:
    """A running weighted sum of vectors of one length and type."""

    __slots__ = ("_product", "_sum", "count", "total_weight")

    def __init__(self, size: int, dtype: np.dtype[Any]) -> None:
        """Start from zero.

        Args:
            size: Values per update.
            dtype: The updates' type: an integer of at most 16 bits, or a float.
        """
        if dtype.kind == "i" and dtype.itemsize > 2:
            raise ShapeError(f"mean: updates of {dtype}, expected int8, int16 or float")
        self._sum: Array = np.zeros(size, np.int64 if dtype.kind == "i" else np.float64)
        self._product: Array = np.empty(min(size, BLOCK), self._sum.dtype)
        self.total_weight = 0
        self.count = 0

    def add(self, values: Array, weight: int) -> None:
        """Add one update with its weight; the caller has checked that its values are finite.

        Raises:
            ShapeError: Another length or kind of number than the others.
            RoundError: A weight outside ``[1, MAX_WEIGHT]``.
        """
        if values.shape != self._sum.shape or (values.dtype.kind == "i") != (self._sum.dtype.kind == "i"):
            raise ShapeError(f"mean: an update of {values.dtype} {values.shape}, expected {self._sum.shape}")
        if not 1 <= weight <= MAX_WEIGHT or self.total_weight + weight > MAX_TOTAL_WEIGHT:
            raise RoundError(f"mean: a weight of {weight}, expected 1 to {MAX_WEIGHT}")
        for begin in range(0, len(values), BLOCK):
            block = values[begin : begin + BLOCK]
            product = self._product[: len(block)]
            np.multiply(block, weight, out=product, dtype=product.dtype, casting="unsafe")
            self._sum[begin : begin + BLOCK] += product
        self.total_weight += weight
        self.count += 1

    def mean(self) -> Float64:
        """The mean so far, a new array.

        Raises:
            RoundError: Nothing was added.
        """
        if not self.total_weight:
            raise RoundError("mean: no update was added")
        return np.asarray(self._sum / np.float64(self.total_weight), np.float64)
