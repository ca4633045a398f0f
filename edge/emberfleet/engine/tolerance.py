"""How far a floating-point sum may be from the right one: what every kernel is held to."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike


def tolerance(length: int, dtype: DTypeLike) -> float:
    """Largest error allowed, relative to the largest expected value, of sums of `length` products.

    Rounding errors of one sum add up like a random walk: ``epsilon * sqrt(length)`` with a factor
    for the worst of many sums, and a few epsilons for what happens before and after the sum.
    Lengths of sums that feed one another add up.
    """
    return float(np.finfo(np.dtype(dtype)).eps) * (8.0 + 4.0 * math.sqrt(length))
