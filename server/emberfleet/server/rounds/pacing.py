"""Pace steering: when a device that is not needed now should come back (Bonawitz et al. 2019, section 2.3).

A round takes a part of a large fleet. Devices wait until there are enough for the next draw; who comes beyond
that is told a time to come back, drawn at random, so that while a round runs about as many return as the next
draw wants, never all at once. In a small fleet everybody is needed, and nobody is sent away.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Final

from emberfleet.server.rounds.plan import RoundPlan

CHOICE: Final = 2
"""Devices there for each one asked: the draw has a choice, and one that goes is replaced."""
FIRST_ROUND_S: Final = 60.0
"""How long a round is taken to last before one has ended."""
LEAST_S: Final = 5.0
MOST_S: Final = 6 * 3600.0
KEPT_S: Final = 600.0


def enough_devices(plan: RoundPlan) -> int:
    """How many devices should wait for the next draw."""
    return max(plan.pool, CHOICE * plan.asked)


def come_back_s(population: int, enough: int, round_s: float, share: float) -> float:
    """How long a device that is not needed should stay away.

    Each of `population` devices comes every ``round_s * population / enough`` seconds on average, so that
    `enough` of them come per round, spread evenly from half of that time to one and a half.

    Args:
        population: Devices that come now and then.
        enough: Devices wanted per round.
        round_s: How long a round lasts.
        share: Uniform in [0, 1).

    Returns:
        Seconds; 0 where everybody is needed.
    """
    if population <= enough:
        return 0.0
    return min(MOST_S, max(LEAST_S, round_s * population / enough)) * (0.5 + share)


def round_seconds(rounds: Iterable[tuple[float | None, float | None]]) -> float:
    """How long rounds last, as the mean of those that were drawn and have ended: when each did."""
    lasted = [closed - started for started, closed in rounds if started is not None and closed is not None]
    return sum(lasted) / len(lasted) if lasted else FIRST_ROUND_S


class Pace:
    """Who comes now and then, and when each should come again."""

    def __init__(self, plan: RoundPlan, draw: Callable[[], float] = random.random) -> None:
        self._enough, self._draw = enough_devices(plan), draw
        self._until: dict[str, float] = {}
        self._swept_at = 0.0
        self.round_s = FIRST_ROUND_S

    def retry_after_s(self, device_id: str, waiting: int, now: float) -> float:
        """How long a device should stay away that came while `waiting` are there, itself included."""
        found = 0.0
        if waiting > self._enough:
            found = come_back_s(max(waiting, self._population(now)), self._enough, self.round_s, self._draw())
        self._until[device_id] = now + 2 * found + KEPT_S
        return found

    def retry_late_s(self, now: float) -> float:
        """How long a device should stay away that came too late for its round."""
        return come_back_s(self._population(now), self._enough, self.round_s, self._draw())

    def _population(self, now: float) -> int:
        if now - self._swept_at > KEPT_S / 10:
            self._until = {name: until for name, until in self._until.items() if until >= now}
            self._swept_at = now
        return len(self._until)
