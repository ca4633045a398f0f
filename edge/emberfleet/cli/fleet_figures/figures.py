"""The figures of a fleet: what each is called, what it counts, and what it is to reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure; the smaller, the better.

    Attributes:
        name: In JSON.
        words: For people.
        unit: Of the value.
        goal: It should be no more than that.
    """

    name: str
    words: str
    unit: str
    goal: float


FIGURES: Final = (
    Figure("mask_ms", "a device rounds, masks and packs 1.25M values, 20 neighbours", "ms", 20),
    Figure("unmask_50_s", "the server unmasks 50 devices, 30 % vanished, 1.25M values", "s", 0.25),
    Figure("unmask_1000_s", "the server unmasks 1,000 devices, 20 neighbours, all cores", "s", 12),
    Figure("average_over_floor", "averaging 100 x 1.25M float32, by reading them once", "times", 1.5),
    Figure("update_bytes", "one masked update, 1.25M values in 8 bits, 100 devices", "bytes", 2_400_000),
    Figure("round_s", "a secure round of 10 devices on loopback, 100k values", "s", 1),
    Figure("agent_rss_mib", "memory of an idle device", "MiB", 45),
    Figure("accuracy_difference", "accuracy lost by secure rounds", "points", 0.1),
)
FLOWER_EXTRAPOLATED: Final = "unmask_1000_s"
"""Flower's server would take minutes: what is told is its time for 50 devices, times 20."""
