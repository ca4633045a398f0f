"""Milliseconds of one training step of the demo's small net with Adam, on numpy and OpenCL."""

from __future__ import annotations

from typing import Any

from benchmarks.measure.setting import Setting
from emberfleet.runtime.workloads import TRAIN, TRAINING_BACKENDS, Workload, time_workloads

CASES = ((16, False), (32, False), (16, True))
"""Batch, and whether it trains in rounded int8, as devices do."""


def measure(setting: Setting) -> dict[str, Any]:
    """A row for each case, number of threads and backend."""
    rows = []
    for batch, fake_quantize in CASES[:1] if setting.quick else CASES:
        for threads in setting.threads:
            workloads = [
                Workload(TRAIN, name, batch, threads, fake_quantize=fake_quantize)
                for name in TRAINING_BACKENDS
            ]
            results = time_workloads(workloads, setting.samples, setting.seconds)
            rows += [
                {"batch": batch, "quantized": fake_quantize, "threads": threads, "backend": work.backend,
                 **result.to_json()}
                for work, result in zip(workloads, results, strict=True)
            ]  # fmt: skip
    return {"net": "small", "optimizer": "adam", "rows": rows}
