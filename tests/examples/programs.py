"""Runs the programs of `examples/` as a user does, and reaches into their modules."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
SOURCES = ("edge", "server", "converters")


def environment(**changes: str) -> dict[str, str]:
    """The environment of a child process that finds the package in this checkout."""
    paths = [str(ROOT / folder) for folder in SOURCES]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "NO_COLOR": "1", "COLUMNS": "160", **changes}


def run_example(
    program: str, *options: str | Path, timeout_s: float = 300, extra: Mapping[str, str] | None = None
) -> str:
    """What a program prints; a program that fails fails the test with what it said."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / program), *map(str, options)],
        cwd=ROOT, env=environment(**(extra or {})), timeout=timeout_s, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{program} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def example_module(monkeypatch: pytest.MonkeyPatch, folder: str, name: str) -> ModuleType:
    """A module that lies beside an example's program; no two of them have one name."""
    monkeypatch.syspath_prepend(str(EXAMPLES / folder))
    return importlib.import_module(name)
