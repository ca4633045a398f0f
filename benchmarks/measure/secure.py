"""Secure sums of 1.25 million values in 8 bits: a device's masking, a server's unmasking.

The server unmasks 50 devices on one thread and 1,000 on all cores, the thousand also with the graph that is
chosen for them.
"""

from __future__ import annotations

from typing import Any

from benchmarks.measure.setting import Setting
from emberfleet.cli.fleet_figures.sums import MANY, SIZE, Case, cases, start
from emberfleet.runtime.measuring import interleave

QUICK = 100


def measure(setting: Setting) -> dict[str, Any]:
    """A device's mask and a server's unmasking: of 50 on one thread, of 1,000 on all cores."""
    size = 10_000 if setting.quick else SIZE
    rows = [_measure_case(case, size, setting) for case in cases(QUICK if setting.quick else MANY)]
    mask, few, many = rows[:3]
    return {
        "size": size,
        "mask_ms": mask["ms"]["median"],
        "unmask_50_s": few["ms"]["median"] / 1e3,
        "unmask_1000_s": many["ms"]["median"] / 1e3,
        "update_bytes": mask["update_bytes"],
        "rows": rows,
    }


def _measure_case(case: Case, size: int, setting: Setting) -> dict[str, Any]:
    # Unmasking a thousand takes seconds: two samples of it say enough.
    long = case.devices >= MANY
    samples, seconds = (min(2, setting.samples), 0.0) if long else (setting.samples, setting.seconds)
    with start(case, size) as process:
        (result,) = interleave([process], samples, seconds)
    assert result.timing is not None
    known = {"work": case.name, "neighbours": case.neighbours, "threads": case.threads}
    facts = {
        name: result.facts[name]
        for name in ("masks", "cpu_ms", "peak_mib", "update_bytes")
        if name in result.facts
    }
    return {**known, "ms": result.timing.to_json(), **facts}
