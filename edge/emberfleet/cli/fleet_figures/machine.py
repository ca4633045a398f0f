"""The facts about a machine without which figures mean nothing."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

LIBRARIES: Final = ("emberfleet", "numpy", "cryptography", "sqlalchemy", "starlette", "uvicorn", "httpx")
BUSY_SHARE: Final = 0.3
"""Above this load per core, wall clock times say little."""


def describe_machine(libraries: Sequence[str] = LIBRARIES) -> dict[str, Any]:
    """Date, processor, load at this moment, system and versions."""
    load = os.getloadavg()
    cores = os.cpu_count() or 1
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": cores,
        "load": [round(value, 2) for value in load],
        "quiet": load[0] < BUSY_SHARE * cores,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: found for name in libraries if (found := _version(name))},
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
