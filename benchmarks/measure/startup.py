"""Seconds and memory until ``from emberfleet.runtime import Runtime`` has run, in fresh processes.

Beside it, what Python and numpy alone take; and the first training step on OpenCL with an empty kernel
cache, with the driver's cache filled, and with kernels kept as binaries.
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

from benchmarks.measure.setting import Setting
from emberfleet.runtime.workloads import TRAIN, Workload

IMPORTS = {
    "python": "pass",
    "numpy": "import numpy",
    "runtime": "from emberfleet.runtime import Runtime",
}
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
work = prepare(Workload.from_json(sys.argv[1]))
work.call()
print(time.perf_counter() - begin)
if sys.argv[2] == "keep":
    from emberfleet.engine.opencl.device import open_device
    open_device().keep_binaries()
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
    }


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
    cache = folder / "empty-cache"
    cache.mkdir()
    environment = {
        **os.environ, "XDG_CACHE_HOME": str(cache), "POCL_CACHE_DIR": str(cache / "pocl"),
        "PYOPENCL_NO_CACHE": "1",
    }  # fmt: skip
    (cache / "pocl").mkdir()
    workload = Workload(TRAIN, "opencl", 16, fake_quantize=True)
    arguments = json.dumps({name: getattr(workload, name) for name in workload.__dataclass_fields__})
    seconds: dict[str, float | str] = {}
    for name, keep in (("empty cache", ""), ("driver's cache", "keep"), ("kept binaries", "")):
        done = subprocess.run(
            [sys.executable, "-c", _FIRST_STEP, arguments, keep],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            return {"skipped": done.stderr.strip().rpartition("\n")[2][-300:]}
        seconds[name] = round(float(done.stdout.split()[-1]), 2)
    return seconds


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 1)
