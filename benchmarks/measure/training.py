"""Milliseconds of one training step: numpy and OpenCL and, where there is one, torch channels_last."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.measure.networks import MEDIUM, SMALL, SqueezeNetShape, build
from benchmarks.measure.setting import PEER_VARIABLE, ROOT, Setting
from emberfleet.core.errors import DeviceError
from emberfleet.runtime.measuring import MeasuredProcess, Result, interleave
from emberfleet.runtime.workloads import TRAIN, TRAINING_BACKENDS, Workload

TORCH = "torch"
"""channels_last, float32."""


@dataclass(frozen=True, slots=True)
class Case:
    """A network at a batch size; with `fake_quantize` it trains as devices do, in rounded int8."""

    name: str
    shape: SqueezeNetShape
    batch: int
    fake_quantize: bool = False


CASES = (
    Case("small", SMALL, 16),
    Case("small", SMALL, 32),
    Case("small, quantized", SMALL, 16, fake_quantize=True),
    Case("344k", MEDIUM, 32),
)


def measure(setting: Setting) -> dict[str, Any]:
    """A row for each case, number of threads and engine; `ratio` is torch's time by ours."""
    rows: list[dict[str, Any]] = []
    for case in CASES[:1] if setting.quick else CASES:
        for threads in setting.threads:
            rows += _measure_case(case, threads, setting)
    peer = "" if setting.peer_python else f"no {PEER_VARIABLE}: set it to an interpreter that has torch"
    return {"optimizer": "adam", "peer_skipped": peer, "rows": rows}


def _measure_case(case: Case, threads: int, setting: Setting) -> list[dict[str, Any]]:
    graph = setting.folder / f"{case.shape.side}.graph.json"
    graph.write_text(build(case.shape).to_json(), "utf-8")
    names = list(TRAINING_BACKENDS)
    with ExitStack() as stack:
        workloads = [
            Workload(TRAIN, name, case.batch, threads, graph=str(graph), fake_quantize=case.fake_quantize)
            for name in names
        ]
        processes = [stack.enter_context(workload.start()) for workload in workloads]
        if setting.peer_python and not case.fake_quantize:
            names.append(TORCH)
            processes.append(stack.enter_context(_start_torch(case, threads, setting.peer_python)))
        results = dict(zip(names, interleave(processes, setting.samples, setting.seconds), strict=True))
    _check_same_network(case, results)
    return [
        {"net": case.name, "batch": case.batch, "threads": threads, "engine": name, **result.to_json(),
         **_ratio(results.get(TORCH), result, name)}
        for name, result in results.items()
    ]  # fmt: skip


def _start_torch(case: Case, threads: int, python: str) -> MeasuredProcess:
    text = json.dumps({**asdict(case.shape), "batch": case.batch, "threads": threads})
    command = [python, "-m", "benchmarks.measure.torch_step", text]
    paths = (ROOT, ROOT / "edge")
    return MeasuredProcess(f"{TORCH}, {case.name}", command, threads, paths)


def _check_same_network(case: Case, results: dict[str, Result]) -> None:
    """Both sides train equally many parameters, or the comparison is of different things."""
    counts = {result.facts["parameters"] for result in results.values() if result.timing}
    if len(counts) > 1:
        raise DeviceError(f"{case.name}: the engines train {sorted(counts)} parameters, expected one number")


def _ratio(peer: Result | None, ours: Result, name: str) -> dict[str, float]:
    if name == TORCH or peer is None or peer.timing is None or ours.timing is None:
        return {}
    return {
        "ratio": round(peer.timing.median / ours.timing.median, 2),
        "cpu_ratio": round(peer.facts["cpu_ms"] / ours.facts["cpu_ms"], 2),
    }
