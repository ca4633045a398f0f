"""Who is whose neighbour in a round: a Harary graph over a public, random order of the cohort.

The devices stand on a ring in an order that follows from a public seed; each has the ``degree / 2`` next on
either side as neighbours. Positions in the roster name the devices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emberfleet.core.errors import ShapeError
from emberfleet.core.secure.keystream import draw
from emberfleet.core.secure.parameters import MAX_COHORT


def permute(seed: bytes, cohort: int) -> tuple[int, ...]:
    """The positions 0 to ``cohort - 1`` in random order.

    Each draws 64 bits from the seed's keystream, and they are sorted by that: equal draws, which the
    lower position wins, come with probability ``cohort**2 / 2**65``.

    Raises:
        ShapeError: Not a cohort, or not a seed.
    """
    if not 1 <= cohort <= MAX_COHORT:
        raise ShapeError(f"secure sums: a cohort of {cohort}, expected 1 to {MAX_COHORT}")
    keys = draw(seed, cohort, np.dtype(np.uint64))
    return tuple(int(position) for position in np.argsort(keys, kind="stable"))


def neighbours_of(position: int, order: Sequence[int], degree: int) -> tuple[int, ...]:
    """The neighbours of one device, ascending; O(cohort), for a device that wants its own.

    Raises:
        ShapeError: The position is not in the order, or no graph has this degree.
    """
    _check_degree(len(order), degree)
    if position not in order:
        raise ShapeError(f"secure sums: position {position} of a cohort of {len(order)}")
    return _around(order.index(position), order, degree)


def harary_graph(order: Sequence[int], degree: int) -> tuple[tuple[int, ...], ...]:
    """The neighbours of every device, by position in the roster; each ascending."""
    _check_degree(len(order), degree)
    found: list[tuple[int, ...]] = [()] * len(order)
    for place, position in enumerate(order):
        found[position] = _around(place, order, degree)
    return tuple(found)


def _around(place: int, order: Sequence[int], degree: int) -> tuple[int, ...]:
    cohort = len(order)
    if degree == cohort - 1:
        return tuple(sorted(other for other in order if other != order[place]))
    steps = range(1, degree // 2 + 1)
    return tuple(sorted(order[(place + sign * step) % cohort] for step in steps for sign in (-1, 1)))


def _check_degree(cohort: int, degree: int) -> None:
    if not 1 <= degree < cohort or (degree % 2 and degree != cohort - 1):
        raise ShapeError(
            f"secure sums: {degree} neighbours in a cohort of {cohort}, expected an even number "
            f"below it, or {cohort - 1} for all"
        )
