"""Averaging 100 updates of 1.25 million values, beside reading the same bytes once.

``python -m emberfleet.cli.fleet_figures.averaging NAME COUNT SIZE`` is the child that does one of them. All
updates lie in memory at once, so that none comes from the processor's cache.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np

from emberfleet.cli.fleet_figures.children import child_of
from emberfleet.core.arrays import Array
from emberfleet.core.updates import TensorPlan, UpdatePlan, read_update
from emberfleet.runtime.measuring import MeasuredProcess, serve

UPDATES: Final = 100
SIZE: Final = 1_250_000
BITS: Final = {"float32": 32, "int16": 16, "int8": 8}
READ: Final = "read once"
CHECKED: Final = "checked"


class Reading:
    """Sums the bytes as 64-bit integers: as fast as memory gives them."""

    def __init__(self, size_bytes: int) -> None:
        self._words = np.ones(size_bytes // 8, np.int64)

    def call(self) -> None:
        """Read all."""
        self._total = int(self._words.sum())

    def facts(self) -> dict[str, Any]:
        """How much was read."""
        assert self._total == self._words.size
        return {"bytes": self._words.nbytes}


class Averaging:
    """What a server does with opened updates: check each, add it to the sum; at the end, the mean."""

    def __init__(self, bits: int, count: int, size: int) -> None:
        self._plan = UpdatePlan((TensorPlan("weights", (size,), 1.0),), bits)
        values = np.random.default_rng(0).uniform(-1, 1, size)
        row = (values * self._plan.limit if bits < 32 else values).astype(self._plan.wire_type)
        self._expected = row[:8].astype(np.float64)
        self._updates = [row.tobytes() for _ in range(count)]

    def call(self) -> None:
        """Average all, with weights as unequal as numbers of samples are."""
        from emberfleet.server.aggregate.fedavg import WeightedMean

        mean = WeightedMean(self._plan.size, self._plan.wire_type)
        for index, update in enumerate(self._updates):
            mean.add(self._read(update), 1 + index % 30)
        self._mean = mean.mean()

    def facts(self) -> dict[str, Any]:
        """How much was averaged; the mean of equal updates is each of them."""
        assert np.allclose(self._mean[:8], self._expected, rtol=1e-6)
        return {"bytes": len(self._updates) * self._plan.size_bytes}

    def _read(self, update: bytes) -> Array:
        return read_update(update, self._plan)


class Adding(Averaging):
    """The sum alone, of values that need no check: `emberfleet.server.aggregate` by itself."""

    def _read(self, update: bytes) -> Array:
        return np.frombuffer(update, self._plan.wire_type)


def start(name: str, count: int = UPDATES, size: int = SIZE) -> MeasuredProcess:
    """A child that gets ready: ``float32``, ``int8, checked``, ``int16, read once`` and so on."""
    return child_of(f"averaging {name}", __name__, name, str(count), str(size))


def _work(name: str, count: int, size: int) -> Reading | Averaging:
    values, _, how = name.partition(", ")
    bits = BITS[values]
    if how == READ:
        return Reading(count * size * bits // 8)
    return (Averaging if how == CHECKED else Adding)(bits, count, size)


if __name__ == "__main__":
    serve(lambda: _work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
