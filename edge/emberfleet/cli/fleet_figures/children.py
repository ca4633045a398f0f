"""Starts the processes in which things are measured: our modules, by this Python or by another one."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emberfleet.runtime.measuring import MeasuredProcess


def child_of(name: str, module: str, *arguments: str) -> MeasuredProcess:
    """A process of this Python that runs one of our modules, which ends up in `measuring.serve`.

    Libraries of linear algebra keep to one thread there.
    """
    return MeasuredProcess(name, [sys.executable, "-m", module, *arguments], 1, search_paths())


def search_paths() -> tuple[Path, ...]:
    """Where this process finds modules, for a child that is to find the same."""
    return tuple(Path(entry) for entry in sys.path if entry)


def child_environment() -> dict[str, str]:
    """The environment of a child of this Python that finds the same modules."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, search_paths()))}


@contextmanager
def our_modules_alone() -> Iterator[Path]:
    """A folder in which another Python finds `emberfleet`, and none of this Python's libraries."""
    package = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory(prefix="emberfleet-") as folder:
        (Path(folder) / package.name).symlink_to(package, target_is_directory=True)
        yield Path(folder)
