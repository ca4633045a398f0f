"""Builds the native runner as its Makefile says, once per compiler and set of flags in a test run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
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


def build_program(folder: Path, *flags: str) -> Path:
    """ember-run as a library that `tests.runner.in_process` calls; the flags go to compiler and linker."""
    extra = " ".join((*flags, "-Dmain=ember_run_main", "-fvisibility=default"))
    built = build(folder, "gcc", "libember.a", "ember_run.o", extra=extra)
    library, parts = built / "ember-run.so", [str(built / "ember_run.o"), str(built / "libember.a")]
    command = ["gcc", "-shared", *flags, "-o", str(library), *parts, "-ldl", "-lm"]
    subprocess.run(command, check=True, timeout=60)
    return library


def run_program(program: Path, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run what `build_program` built in a process that has prepared PoCL."""
    command = [sys.executable, "-m", "tests.runner.in_process", str(program), *map(str, words)]
    paths = os.pathsep.join(path for path in sys.path if path)
    whole = {**os.environ, "PYTHONPATH": paths, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=whole)


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
