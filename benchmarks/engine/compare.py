"""Times our engine and every peer on the seven works, interleaved, and makes a row of each pair."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.engine.job import BFLOAT16, FLOAT32, INFER, TRAIN, Job
from benchmarks.engine.peers import EAGER, MAIN, PEERS, Peer, interpreter
from benchmarks.engine.works import WORKS, EngineWork, write_files
from benchmarks.measure.setting import ROOT, Setting
from emberfleet.core.errors import DeviceError
from emberfleet.runtime.measuring import MeasuredProcess, Result, check_falling, interleave

OURS = "ours"
"""Our module of this package."""
OPENCL, NUMPY = "opencl", "numpy"
NUMPY_WORK = "train sq32"
"""The one work that the numpy backend is compared on, with torch eager."""
TRAINING_SAMPLE = 2.0
"""Times as long as other samples: a step takes up to a quarter of a second."""
FIRST_LOSS_TOLERANCE: Mapping[str, float] = {FLOAT32: 1e-4, BFLOAT16: 2e-2}
"""Between two libraries that start from the same weights, as a share."""
CONVERSION_LIMIT_S = 300
_PATHS = (ROOT, ROOT / "edge", ROOT / "converters")

Rows = list[dict[str, Any]]
Found = dict[str, Any]


def measure(setting: Setting, works: Sequence[str], keep: Callable[[Found], None]) -> Found:
    """Rows and what was skipped, of each work and number of threads; without peers, of ours alone.

    Args:
        setting: How thoroughly, and where the peers are.
        works: Names in `WORKS`.
        keep: Takes the rows of a work and number of threads as soon as they are there.
    """
    total: Found = {"rows": [], "skipped": [], "versions": {}}
    for name in works:
        folder = write_files(WORKS[name], setting.folder)
        for threads in setting.threads:
            found = _measure_pair(name, threads, folder, setting)
            keep(found)
            for key in ("rows", "skipped"):
                total[key] += found[key]
            total["versions"] |= found["versions"]
    return total


def _measure_pair(name: str, threads: int, folder: Path, setting: Setting) -> Found:
    work = WORKS[name]
    backends = (OPENCL, NUMPY) if name == NUMPY_WORK else (OPENCL,)
    peers, skipped = _peers_here(work, folder, setting.peers)
    seconds = setting.seconds * (TRAINING_SAMPLE if work.kind == TRAIN else 1.0)
    with _start(name, OURS, sys.executable, _job(work, folder, OPENCL, threads)) as first:
        first.wait_ready()  # it compiles the kernels, which takes memory of its own: later ones find them
    with ExitStack() as stack:
        processes = [
            stack.enter_context(_start(name, OURS, sys.executable, _job(work, folder, backend, threads)))
            for backend in backends
        ]
        for peer, python in peers.items():
            job = _job(work, folder, peer.variant, threads, peer.precision)
            processes.append(stack.enter_context(_start(peer.name, peer.module, python, job)))
        results = interleave(processes, setting.samples, seconds)
    ours = dict(zip(backends, results[: len(backends)], strict=True))
    theirs = dict(zip(peers, results[len(backends) :], strict=True))
    where = {"work": name, "threads": threads}
    for backend, result in ours.items():
        if result.timing is None:
            skipped[f"ours on {backend}"] = result.skipped
        elif work.kind == TRAIN:
            check_falling(f"{name} on {backend}", *result.facts["losses"])
    for peer in theirs:
        reason = _fault(peer, theirs[peer], ours[OPENCL])
        if reason:
            skipped[peer.name] = reason
    able = {peer: result for peer, result in theirs.items() if peer.name not in skipped}
    return {
        "rows": [{**where, **row} for row in _rows(ours, able)],
        "skipped": [{**where, "peer": peer, "reason": reason} for peer, reason in skipped.items()],
        "versions": {_library(peer): result.facts["version"] for peer, result in able.items()},
    }


def _peers_here(work: EngineWork, folder: Path, place: Path | None) -> tuple[dict[Peer, str], dict[str, str]]:
    """The peers that have an interpreter, with it; and the others, with the reason."""
    if place is None:
        return {}, {}
    found = {peer: interpreter(place, peer.environment) for peer in PEERS[work.kind, work.precision]}
    if work.kind == INFER and interpreter(place, MAIN):
        _write_onnx(folder, interpreter(place, MAIN))
    able = {peer: python for peer, python in found.items() if python}
    return able, {peer.name: f"no environment '{peer.environment}'" for peer in found if peer not in able}


def _write_onnx(folder: Path, python: str) -> None:
    if (folder / "int8.onnx").exists():
        return
    command = [python, "-m", "benchmarks.engine.onnx_models", Job(INFER, str(folder), "", 1).to_json()]
    paths = os.pathsep.join(str(path) for path in _PATHS)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=CONVERSION_LIMIT_S,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    if done.returncode:
        raise DeviceError(f"writing .onnx failed: {done.stderr.strip()[-1000:]}")


def _job(work: EngineWork, folder: Path, variant: str, threads: int, precision: str = "") -> Job:
    return Job(work.kind, str(folder), variant, threads, precision or work.precision, work.optimizer)


def _start(name: str, module: str, python: str, job: Job) -> MeasuredProcess:
    command = [python, "-m", f"benchmarks.engine.{module}", job.to_json()]
    return MeasuredProcess(name, command, job.threads, _PATHS, may_fail=module != OURS)


def _fault(peer: Peer, result: Result, ours: Result) -> str:
    """Why a peer's figures do not count; empty when they do."""
    if result.timing is None:
        return result.skipped
    if ours.timing is None or "losses" not in result.facts:
        return ""
    first, last = result.facts["losses"]
    try:
        check_falling(peer.name, first, last)
    except DeviceError as error:
        return str(error)
    wanted = ours.facts["losses"][0]
    if abs(first - wanted) > FIRST_LOSS_TOLERANCE[peer.precision] * abs(wanted):
        return f"its first loss is {first:.6g}, ours {wanted:.6g}: it trains another network"
    return ""


def _rows(ours: Mapping[str, Result], theirs: Mapping[Peer, Result]) -> Rows:
    """OpenCL beside every peer, numpy beside torch eager; beside nothing where there is no peer."""
    rows: Rows = []
    for backend, result in ours.items():
        if result.timing is None:
            continue
        own = {"backend": backend, **_side("ours", result)}
        beside = [peer for peer in theirs if backend == OPENCL or peer.name == EAGER]
        rows += [
            {
                **own,
                "peer": peer.name,
                "precision": peer.precision,
                **_side("peer", theirs[peer]),
                **_ratios(result, theirs[peer]),
            }
            for peer in beside
        ]
        if not beside:
            rows.append({**own, "peer": None, "peer_ms": None, "peer_rss_mib": None, "ratio": None})
    return rows


def _side(name: str, result: Result) -> dict[str, Any]:
    assert result.timing is not None
    facts = result.facts
    return {
        f"{name}_ms": result.timing.median,
        f"{name}_low_ms": result.timing.low,
        f"{name}_high_ms": result.timing.high,
        f"{name}_cpu_ms": facts["cpu_ms"],
        f"{name}_rss_mib": facts["peak_mib"],
        **{f"{name}_{key}": facts[key] for key in ("losses", "error") if key in facts},
    }


def _ratios(ours: Result, theirs: Result) -> dict[str, float]:
    assert ours.timing is not None
    assert theirs.timing is not None
    return {
        "ratio": round(theirs.timing.median / ours.timing.median, 3),
        "cpu_ratio": round(theirs.facts["cpu_ms"] / ours.facts["cpu_ms"], 3),
    }


def _library(peer: Peer) -> str:
    return "torch" if peer.module == "torch_job" else peer.name
