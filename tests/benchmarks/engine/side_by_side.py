"""A side-by-side run as `engine.json` holds it, with made-up figures."""

from __future__ import annotations

from typing import Any

from benchmarks.engine.peers import EAGER, PEERS
from benchmarks.engine.works import WORKS


def value() -> dict[str, Any]:
    rows = []
    for name, work in WORKS.items():
        for threads in (1, 2):
            for index, peer in enumerate(PEERS[work.kind, work.precision]):
                rows.append(row(name, threads, "opencl", peer.name, peer.precision, 10.0 * (index + 1)))
        if name == "train sq32":
            rows.append(row(name, 1, "numpy", EAGER, "float32", 15.0))
    machine = {
        "processor": "Example", "cores": 2, "system": "Linux", "python": "3.11", "versions": {"numpy": "2"},
    }  # fmt: skip
    return {
        "rows": rows, "skipped": [], "versions": {"torch": "2"}, "machine": machine, "quick": False,
        "memory": {
            "processes": [
                {"net": "sq32", "process": "ours, auto", "backend": "litert", "peak_mib": 41.25},
                {"net": "sq32", "process": "ours, opencl", "skipped": "no device"},
            ],
            "arenas": [
                {"work": "train small", "batch": 8, "ratio": 1.5,
                 "arena_bytes": 3 << 20, "bound_bytes": 2 << 20}
            ],
        },
        "startup": [
            {"net": "small", "precision": "int8", "cache": "warm", "after_import_s": 0.12, "process_s": 0.2}
        ],
    }  # fmt: skip


def row(work: str, threads: int, backend: str, peer: str, precision: str, peer_ms: float) -> dict[str, Any]:
    return {
        "work": work, "threads": threads, "backend": backend, "peer": peer, "precision": precision,
        "ours_ms": 20.0, "ours_low_ms": 19.0, "ours_high_ms": 21.0, "ours_rss_mib": 100.0,
        "peer_ms": peer_ms, "peer_rss_mib": 400.0, "ratio": peer_ms / 20.0,
        "date": "2026-11-21T10:00:00+00:00", "quiet": True,
    }  # fmt: skip
