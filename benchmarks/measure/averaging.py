"""Seconds to average 100 updates of 1.25 million values, beside reading the same bytes once.

Each type of value by one thread, by two, and with the checks that a server makes when an update comes; four
children at a time, interleaved. The updates lie in files that the system keeps in memory: 2 GB at the most.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from benchmarks.measure.setting import Setting
from emberfleet.cli.fleet_figures.averaging import BITS, CHECKED, CORES, READ, SIZE, UPDATES, start
from emberfleet.runtime.measuring import interleave


def measure(setting: Setting) -> dict[str, Any]:
    """Seconds for each type of value, alone and with the checks, and how often memory was read for it."""
    count, size = (4, 10_000) if setting.quick else (UPDATES, SIZE)
    rows: list[dict[str, Any]] = []
    for values in BITS:
        rows += _measure_type(values, count, size, setting.samples)
    return {"updates": count, "size": size, "rows": rows}


def _measure_type(values: str, count: int, size: int, samples: int) -> list[dict[str, Any]]:
    names = (f"{values}, {READ}", values, f"{values}, {CORES}", f"{values}, {CHECKED}")
    with ExitStack() as stack:
        processes = [stack.enter_context(start(name, count, size)) for name in names]
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
