"""Which of the devices that are there take part: drawn without replacement, repeatable from the seed."""

from __future__ import annotations

import random
from collections.abc import Collection


def draw_cohort(present: Collection[str], size: int, seed: int, number: int) -> tuple[str, ...]:
    """Draw up to `size` devices, each equally likely.

    The draw depends on the set of devices, the seed and the round's number, not on who came first.
    """
    generator = random.Random(f"{seed}/{number}")  # noqa: S311 - a fair draw, not a secret
    candidates = sorted(present)
    return tuple(generator.sample(candidates, min(size, len(candidates))))
