"""Builds the native runner as its Makefile says, once per compiler and set of flags in a test run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "edge" / "runner"
CORPUS = SOURCE / "fuzz" / "corpus"
COMPILERS = ("gcc", "clang")
SANITIZED = "-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
PASSES = 0


def build(folder: Path, compiler: str, *targets: str, extra: str = "") -> Path:
    """The folder with what `make` built of these targets; skips where the compiler or make is missing."""
    for program in ("make", compiler):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here: install it to build the native runner")
    folder.mkdir(parents=True, exist_ok=True)
    command = ["make", "-j2", "-C", str(SOURCE), f"CC={compiler}", f"OUT={folder}", f"EXTRA={extra}"]
    done = subprocess.run(
        [*command, *(str(folder / target) for target in targets)], capture_output=True, text=True, timeout=300
    )
    if any(library in done.stderr for library in ("libclang_rt", "lasan", "libasan", "lubsan")):
        pytest.skip(f"{compiler} has no sanitizers here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == PASSES, done.stderr
    return folder


def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program with nothing but these variables set; AddressSanitizer looks for leaks too."""
    command = [str(word) for word in words]
    clean = {"PATH": "/usr/bin:/bin", "ASAN_OPTIONS": "detect_leaks=1", **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=clean)
    if "LeakSanitizer has encountered a fatal error" in done.stderr:
        # Containers without ptrace: the other sanitizers still look.
        clean["ASAN_OPTIONS"] = "detect_leaks=0"
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=clean)
    return done
