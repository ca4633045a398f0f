"""Seconds to average 100 updates of 1.25 million values, beside reading the same bytes once.

``python -m benchmarks.measure.averaging NAME COUNT SIZE`` is the child that does one of them. All
updates lie in memory at once, so that none comes from the processor's cache: 1.5 GB at the most, in three
children.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks.measure.setting import ROOT, Setting
from emberfleet.core.arrays import Array
from emberfleet.core.updates import TensorPlan, UpdatePlan, read_update
from emberfleet.runtime.measuring import MeasuredProcess, interleave, serve
from emberfleet.server.aggregate.fedavg import WeightedMean

UPDATES = 100
SIZE = 1_250_000
BITS = {"float32": 32, "int16": 16, "int8": 8}
READ = "read once"
CHECKED = "checked"


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


def measure(setting: Setting) -> dict[str, Any]:
    """Seconds for each type of value, alone and with the checks, and how often memory was read for it."""
    count, size = (4, 10_000) if setting.quick else (UPDATES, SIZE)
    rows: list[dict[str, Any]] = []
    for values in BITS:
        rows += _measure_type(values, count, size, setting.samples)
    return {"updates": count, "size": size, "rows": rows}


def _measure_type(values: str, count: int, size: int, samples: int) -> list[dict[str, Any]]:
    names = (f"{values}, {READ}", values, f"{values}, {CHECKED}")
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                MeasuredProcess(
                    f"averaging {name}",
                    [sys.executable, "-m", __name__, name, str(count), str(size)],
                    threads=1,
                    paths=(ROOT,),
                )
            )
            for name in names
        ]
        floor, *results = interleave(processes, samples, 0.0)
    assert floor.timing is not None
    rows = []
    for name, result in zip(names[1:], results, strict=True):
        assert result.timing is not None
        rows.append(
            {
                "values": name,
                "seconds": round(result.timing.median / 1e3, 4),
                "low": round(result.timing.low / 1e3, 4),
                "high": round(result.timing.high / 1e3, 4),
                "reading_once_s": round(floor.timing.median / 1e3, 4),
                "times_reading": round(result.timing.median / floor.timing.median, 1),
                "peak_mib": result.facts["peak_mib"],
            }
        )
    return rows


def _work(name: str, count: int, size: int) -> Reading | Averaging:
    values, _, how = name.partition(", ")
    bits = BITS[values]
    if how == READ:
        return Reading(count * size * bits // 8)
    return (Averaging if how == CHECKED else Adding)(bits, count, size)


if __name__ == "__main__":
    serve(lambda: _work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
