"""Averaging 100 updates of 1.25 million values, beside reading the same bytes once.

``python -m emberfleet.cli.fleet_figures.averaging NAME COUNT SIZE`` is the child that does one of them. The
updates are far more than the processor's caches hold, and less than the memory that keeps their file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
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
CORES: Final = "two threads"


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
    """What a server does with the updates of a round: maps their file, sums, divides."""

    threads = 1

    def __init__(self, bits: int, count: int, size: int) -> None:
        from emberfleet.server.aggregate.stored import UpdateFile

        self._plan = UpdatePlan((TensorPlan("weights", (size,), 1.0),), bits)
        values = np.random.default_rng(0).uniform(-1, 1, size)
        row = (values * self._plan.limit if bits < 32 else values).astype(self._plan.wire_type)
        self._expected = row[:8].astype(np.float64)
        self._weights = {f"{index:032x}": 1 + index % 30 for index in range(count)}
        self._folder = TemporaryDirectory(prefix="emberfleet-")
        self._file = UpdateFile(Path(self._folder.name) / "updates", self._weights, self._plan)
        for device in self._weights:
            self._file.write(device, row)

    def call(self) -> None:
        """Average all, with weights as unequal as numbers of samples are."""
        from emberfleet.server.aggregate.weighted_sum import weighted_mean

        updates = self._file.updates(self._weights)
        self._check(updates.values)
        self._mean = weighted_mean(updates, self.threads)

    def facts(self) -> dict[str, Any]:
        """How much was averaged; the mean of equal updates is each of them."""
        assert np.allclose(self._mean[:8], self._expected, rtol=1e-6)
        self._folder.cleanup()
        return {"bytes": len(self._weights) * self._plan.size_bytes}

    def _check(self, rows: Array) -> None:
        """Nothing: a server has checked each update when it came."""


class Sharing(Averaging):
    """The same by two threads."""

    threads = 2


class Checking(Averaging):
    """The same, with the checks that a server makes when an update comes."""

    def _check(self, rows: Array) -> None:
        for row in rows:
            read_update(row.tobytes(), self._plan)


def start(name: str, count: int = UPDATES, size: int = SIZE) -> MeasuredProcess:
    """A child that gets ready: ``float32``, ``int8, checked``, ``int16, read once`` and so on."""
    return child_of(f"averaging {name}", __name__, name, str(count), str(size))


def _work(name: str, count: int, size: int) -> Reading | Averaging:
    values, _, how = name.partition(", ")
    bits = BITS[values]
    if how == READ:
        return Reading(count * size * bits // 8)
    kinds = {CHECKED: Checking, CORES: Sharing}
    return kinds.get(how, Averaging)(bits, count, size)


if __name__ == "__main__":
    serve(lambda: _work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
