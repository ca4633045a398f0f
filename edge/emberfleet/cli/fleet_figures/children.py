"""Starts the processes in which things are measured: our modules, by this Python or by another one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from emberfleet.core.errors import DeviceError
from emberfleet.runtime.measuring import MeasuredProcess, thread_environment

SHOWN_ERROR: Final = 2000


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


def ask_once(name: str, module: str, *arguments: str) -> dict[str, Any]:
    """Run one of our modules that ends up in `answer_once`, and give its answer.

    Raises:
        DeviceError: It failed; carries the end of what it said.
    """
    command = [sys.executable, "-m", module, *arguments]
    environment = {**child_environment(), **thread_environment(1)}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise DeviceError(f"{name}: the process ended with code {done.returncode}: {said[-SHOWN_ERROR:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def answer_once(work: Callable[[], dict[str, Any]]) -> None:
    """The child's side: do it, and say what came of it; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answers.write(json.dumps(work()))
    answers.close()
