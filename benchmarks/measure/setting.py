"""How thoroughly to measure, and on what machine it was done."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("emberfleet", "numpy", "pyopencl", "pocl-binary-distribution", "ai-edge-litert", "cryptography")


@dataclass(frozen=True, slots=True)
class Setting:
    """One run of the benchmarks.

    Attributes:
        folder: For files that measurements need; empty at the start.
        quick: As little as shows that everything works; the figures mean nothing.
        peers: Folder of the peers' environments; None: our engine alone.
    """

    folder: Path
    quick: bool = False
    peers: Path | None = None

    @property
    def samples(self) -> int:
        """Interleaved samples of each thing."""
        return 2 if self.quick else 5

    @property
    def seconds(self) -> float:
        """Length of one sample."""
        return 0.02 if self.quick else 0.25

    @property
    def threads(self) -> tuple[int, ...]:
        """Numbers of threads to measure with."""
        return (1,) if self.quick or (os.cpu_count() or 1) < 2 else (1, 2)


def describe_machine() -> dict[str, Any]:
    """The facts without which figures mean nothing; the load is that of the start."""
    load = os.getloadavg()
    cores = os.cpu_count() or 1
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": cores,
        "load": [round(value, 2) for value in load],
        "quiet": load[0] < 0.3 * cores,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: found for name in LIBRARIES if (found := _version(name))},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else "unknown"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
