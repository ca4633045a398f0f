"""Milliseconds from pixels to logits in int8, one image and 64, on the three backends."""

from __future__ import annotations

from typing import Any

from benchmarks.measure.setting import Setting
from emberfleet.runtime.workloads import INFER, INFERENCE_BACKENDS, Workload, time_workloads

BATCHES = (1, 64)


def measure(setting: Setting) -> dict[str, Any]:
    """A row for each batch, number of threads and backend: the small net, through `Runtime.logits`."""
    rows = []
    for batch in BATCHES:
        for threads in setting.threads:
            workloads = [Workload(INFER, name, batch, threads) for name in INFERENCE_BACKENDS]
            results = time_workloads(workloads, setting.samples, setting.seconds)
            rows += [
                {"batch": batch, "threads": threads, "backend": work.backend, **result.to_json()}
                for work, result in zip(workloads, results, strict=True)
            ]
    return {"net": "small", "precision": "int8", "rows": rows}
