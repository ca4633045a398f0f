"""Seconds and memory until ``from emberfleet.runtime import Runtime`` has run, in fresh processes.

Beside it, what Python and numpy alone take; and the first training step and the first inference on OpenCL
with an empty kernel cache, and in the processes after that.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import first_inference
from benchmarks.measure.setting import Setting
from emberfleet.core.errors import DeviceError
from emberfleet.runtime.workloads import TRAIN, Workload

IMPORTS = {
    "python": "pass",
    "numpy": "import numpy",
    "runtime": "from emberfleet.runtime import Runtime",
}
NETS = ("small", "sq224")
"""Whose first inference is timed."""
CACHES = (("empty", 1), ("warm", 3))
"""The kernels' caches, and in how many processes."""
_PROGRAM = """
import time
begin = time.perf_counter()
{statement}
seconds = time.perf_counter() - begin
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(seconds, int(peak[0]) / 1024)
"""
_FIRST_STEP = """
import sys, time
begin = time.perf_counter()
from emberfleet.runtime.workloads import Workload, prepare
prepare(Workload.from_json(sys.argv[1])).call()
print(time.perf_counter() - begin)
"""


def measure(setting: Setting) -> dict[str, Any]:
    """Medians of fresh processes; whole processes and the import alone."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in IMPORTS}
    for _ in range(2 if setting.quick else 9):
        for name, statement in IMPORTS.items():
            found[name].append(_run(statement))
    rows = []
    for name, samples in found.items():
        whole, inside, peak = (sorted(column) for column in zip(*samples, strict=True))
        rows.append(
            {
                "statement": IMPORTS[name],
                "import_ms": _ms(statistics.median(inside)),
                "import_low_ms": _ms(inside[0]),
                "import_high_ms": _ms(inside[-1]),
                "process_ms": _ms(statistics.median(whole)),
                "peak_mib": round(statistics.median(peak), 1),
            }
        )
    runtime = rows[-1]
    return {
        "import_ms": runtime["import_ms"],
        "peak_mib": runtime["peak_mib"],
        "rows": rows,
        "first_step_s": {} if setting.quick else _first_steps(setting.folder),
        "first_inference": _first_inferences(setting),
    }


def _first_inferences(setting: Setting) -> list[dict[str, Any]]:
    """Seconds to the first logits of one image through `Runtime`, medians of fresh processes."""
    rows: list[dict[str, Any]] = []
    for net in NETS[:1] if setting.quick else NETS:
        model = first_inference.package(net, setting.folder)
        for precision in (first_inference.INT8, first_inference.FLOAT):
            environment = first_inference.empty_caches(setting.folder / f"startup-{net}-{precision}")
            for cache, count in CACHES[:1] if setting.quick else CACHES:
                row: dict[str, Any] = {"net": net, "precision": precision, "cache": cache}
                try:
                    found = [
                        first_inference.run(model, "opencl", precision, environment) for _ in range(count)
                    ]
                except DeviceError as error:
                    rows.append({**row, "skipped": str(error)})
                    break
                after = statistics.median(each.after_import_s for each in found)
                whole = statistics.median(each.process_s for each in found)
                rows.append({**row, "after_import_s": round(after, 3), "process_s": round(whole, 3)})
    return rows


def _run(statement: str) -> tuple[float, float, float]:
    """Seconds of the whole process, seconds of the statement, peak MiB."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(statement=statement)],
        check=True,
        capture_output=True,
        text=True,
    )
    whole = time.perf_counter() - begin
    seconds, peak = done.stdout.split()
    return whole, float(seconds), float(peak)


def _first_steps(folder: Path) -> dict[str, float | str]:
    """Seconds from the import to the end of the first step of the small net on OpenCL."""
    environment = {**os.environ, **first_inference.empty_caches(folder / "first-step")}
    workload = Workload(TRAIN, "opencl", 16, fake_quantize=True)
    arguments = json.dumps({name: getattr(workload, name) for name in workload.__dataclass_fields__})
    seconds: dict[str, float | str] = {}
    for name, _ in CACHES:
        done = subprocess.run(
            [sys.executable, "-c", _FIRST_STEP, arguments],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            return {"skipped": done.stderr.strip().rpartition("\n")[2][-300:]}
        seconds[name] = round(float(done.stdout.split()[-1]), 2)
    return seconds


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 1)
