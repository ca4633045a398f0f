"""Memory: of the smallest process that predicts once in int8, and of the arena that training plans.

``python -m benchmarks.measure.memory WORK BATCHES`` is the child that plans: it makes a trainer of every
batch size and tells the size of its arena, and the sum of what must live at its fullest moment, below
which no plan can be. What a whole training process holds stands in the rows of `engine`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.engine.job import TRAIN
from benchmarks.engine.networks import build
from benchmarks.engine.ours import OPTIMIZERS
from benchmarks.engine.works import WORKS
from benchmarks.measure import first_inference
from benchmarks.measure.first_inference import INT8, LITERT
from benchmarks.measure.setting import ROOT, Setting
from emberfleet.core.errors import DeviceError

NETS = ("sq32", "sq224")
WAYS = (
    ("ours, auto", "auto", 3), ("ours, opencl, compiling its kernels", "opencl", 1),
    ("ours, opencl", "opencl", 3), ("ours, numpy", "numpy", 3), ("LiteRT alone", LITERT, 3),
)  # fmt: skip
"""A process, the backend that it asks for, and how many of them; the first with OpenCL finds empty caches."""
BATCHES = {"train small": (8, 32, 64), "train sq32": (8, 32, 64), "train sq224": (1, 8, 16)}
ONE_THREAD = {"EMBERFLEET_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def measure(setting: Setting) -> dict[str, Any]:
    """Peaks of processes and sizes of arenas, each a list of rows."""
    return {"processes": _processes(setting), "arenas": _arenas(setting)}


def _processes(setting: Setting) -> list[dict[str, Any]]:
    """Medians of fresh processes."""
    rows: list[dict[str, Any]] = []
    for net in NETS[:1] if setting.quick else NETS:
        model = first_inference.package(net, setting.folder)
        environment = {**first_inference.empty_caches(setting.folder / f"memory-{net}"), **ONE_THREAD}
        for name, how, count in WAYS:
            row: dict[str, Any] = {"net": net, "process": name}
            try:
                found = [first_inference.run(model, how, INT8, environment) for _ in range(count)]
            except DeviceError as error:
                rows.append({**row, "skipped": str(error)})
                continue
            peak = statistics.median(each.peak_mib for each in found)
            rows.append({**row, "backend": found[0].backend, "peak_mib": peak})
    return rows


def _arenas(setting: Setting) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "edge", ROOT / "converters"))
    for work, batches in list(BATCHES.items())[: 1 if setting.quick else None]:
        wanted = [str(batch) for batch in batches[: 1 if setting.quick else None]]
        done = subprocess.run(
            [sys.executable, "-m", __name__, work, *wanted],
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": paths}, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            rows.append({"work": work, "skipped": done.stderr.strip().rpartition("\n")[2][-300:]})
        else:
            rows += [{"work": work, **row} for row in json.loads(done.stdout)]
    return rows


def plan(work: str, batches: list[int]) -> list[dict[str, Any]]:
    """Bytes of the arena and of the bound, and the one by the other, for each batch size."""
    from emberfleet.engine.backend import TrainingSpec
    from emberfleet.engine.opencl.backend import OpenCLBackend

    assert WORKS[work].kind == TRAIN
    graph, engine = build(WORKS[work].shape), OpenCLBackend()
    rows = []
    for batch in batches:
        arena = engine.trainer(graph, TrainingSpec(batch, OPTIMIZERS[WORKS[work].optimizer])).arena
        rows.append(
            {
                "batch": batch,
                "arena_bytes": arena.size_bytes,
                "bound_bytes": arena.bound_bytes,
                "ratio": round(arena.size_bytes / arena.bound_bytes, 3),
            }
        )
    return rows


if __name__ == "__main__":
    print(json.dumps(plan(sys.argv[1], [int(text) for text in sys.argv[2:]])))
