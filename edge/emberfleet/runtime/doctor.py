"""What works on this machine, tried for real, and what to install for what does not.

Anything that runs foreign machine code is tried in a child process (`emberfleet.runtime.probes`).
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from emberfleet.core.errors import in_one_line
from emberfleet.core.processor import usable_cores
from emberfleet.runtime.extras import (
    LIBRARIES,
    install_extra,
    install_opencl_driver,
    install_system,
    install_tflite,
)

PROBE_LIMIT_S = 60.0
OLDEST_PYTHON = (3, 11)
PUBLISHED_NAMES = {"PIL": "pillow"}


class Status(Enum):
    """How a part of Emberfleet fares on this machine."""

    WORKS = "works"
    MISSING = "missing"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: The part, in a user's words.
        status: Whether it is there and does what it should.
        found: Version, device or the fault, in one line.
        needed_for: What a user cannot do without it.
        remedy: The command, or else the advice, that mends it; None where it works.
        required: Nothing of Emberfleet runs without it.
    """

    name: str
    status: Status
    found: str
    needed_for: str
    remedy: str | None = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything looked at, in the order shown."""

    machine: str
    python: str
    emberfleet: str
    findings: tuple[Finding, ...]

    @property
    def base_works(self) -> bool:
        """All that is required works."""
        return all(f.status is Status.WORKS for f in self.findings if f.required)


Prober = Callable[..., dict[str, Any]]
"""``probe(name, *arguments)`` gives the facts of one probe; tests put their own in its place."""


def run_probe(name: str, *arguments: str) -> dict[str, Any]:
    """Run one probe of `emberfleet.runtime.probes` in a child process.

    Returns:
        Its facts, with ``failure`` when something did not work, the child's sudden death included.
    """
    command = [sys.executable, "-m", "emberfleet.runtime.probes", name, *arguments]
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths}
    try:
        child = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment, timeout=PROBE_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return {"failure": f"no answer after {PROBE_LIMIT_S:.0f} seconds"}
    if child.returncode < 0:
        return {"failure": f"ended by {_signal_name(-child.returncode)}"}
    try:
        facts = json.loads(child.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        facts = None
    if not isinstance(facts, dict):
        last = (child.stderr.strip() or "no output").splitlines()[-1]
        return {"failure": f"ended with code {child.returncode}: {last}"}
    return facts


def diagnose(probe: Prober = run_probe) -> Diagnosis:
    """Try every part of Emberfleet on this machine; takes one to three seconds, more when kernels compile."""
    checks: tuple[Callable[[Prober], list[Finding]], ...] = (
        _check_python,
        _check_numpy,
        _check_signatures,
        _check_cache,
        _check_hpke,
        _check_tflite,
        _check_opencl,
        _check_linker,
        _check_backend,
        _check_extras,
        _check_compiler,
    )
    with ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 1)) as pool:
        found = list(pool.map(lambda check: check(probe), checks))
    return Diagnosis(
        machine=_machine(),
        python=f"{platform.python_version()} at {sys.executable}",
        emberfleet=_emberfleet_version(),
        findings=tuple(finding for group in found for finding in group),
    )


def cache_folder() -> Path:
    """Where compiled kernels and tuning results are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _check_python(probe: Prober) -> list[Finding]:
    if sys.version_info >= OLDEST_PYTHON:
        return [Finding("Python", Status.WORKS, platform.python_version(), "everything", required=True)]
    wanted = ".".join(map(str, OLDEST_PYTHON))
    return [
        Finding(
            "Python",
            Status.BROKEN,
            platform.python_version(),
            "everything",
            f"install Python {wanted} or newer",
            True,
        )
    ]


def _check_numpy(probe: Prober) -> list[Finding]:
    facts = probe("numpy")
    found = f"{facts.get('version', '')} with {facts.get('blas', 'unknown')}"
    return [_finding("numpy", facts, found, "everything", "pip install numpy", required=True)]


def _check_signatures(probe: Prober) -> list[Finding]:
    facts = probe("signatures")
    found = f"Ed25519, cryptography {facts.get('version', '')}"
    remedy = "pip install 'cryptography>=38'"
    return [_finding("signatures", facts, found, "opening bundles", remedy, required=True)]


def _check_hpke(probe: Prober) -> list[Finding]:
    facts = probe("hpke")
    found = f"HPKE, cryptography {facts.get('version', '')}"
    if facts.get("composed"):
        found += ", composed from its primitives"
    remedy = "pip install --upgrade 'cryptography>=38'"
    return [_finding("encryption", facts, found, "sending updates to a fleet", remedy)]


def _check_cache(probe: Prober) -> list[Finding]:
    folder = cache_folder()
    needed_for = "starting fast, with kernels compiled once"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remedy = "set XDG_CACHE_HOME to a folder that can be written"
        found = f"{folder}: {error.strerror}"
        return [Finding("cache folder", Status.BROKEN, found, needed_for, remedy)]
    return [Finding("cache folder", Status.WORKS, str(folder), needed_for)]


def _check_tflite(probe: Prober) -> list[Finding]:
    facts = probe("tflite")
    found = f"{facts.get('library', '')} {facts.get('version', '')}"
    if "missing" in facts:
        facts = {"failure": "neither ai-edge-litert nor tflite-runtime is installed", "missing": "tflite"}
    return [_finding("TFLite runtime", facts, found, "running .tflite models", install_tflite())]


def _check_opencl(probe: Prober) -> list[Finding]:
    needed_for = "fast training and inference (numpy does it without)"
    facts = probe("opencl")
    if "failure" in facts:
        return [_finding("OpenCL", facts, "", needed_for, install_extra("opencl"))]
    if not facts["devices"]:
        found = f"pyopencl {facts['version']}, but no driver"
        return [Finding("OpenCL", Status.MISSING, found, needed_for, install_opencl_driver())]
    findings = []
    families = {device["family"] for device in facts["devices"]}
    for device in facts["devices"]:
        result = probe("opencl-device", *map(str, device["index"]))
        units = f"{device['compute_units']} compute unit{'s' if device['compute_units'] != 1 else ''}"
        found = f"{device['name']}, {units}, {device['platform']}, {_family(device)}"
        if device["family"] == "gpu" and "cpu" in families:
            found += "; not used beside a processor, unless EMBERFLEET_OPENCL_FAMILY is gpu"
        if result.get("mended"):
            found += f", as {result['mended']}"
        if "failure" in result:
            result = {"failure": f"{device['name']}: {result['failure']}"}
        findings.append(_finding("OpenCL", result, found, needed_for, _opencl_remedy(result)))
    return findings


def _family(device: dict[str, Any]) -> str:
    """How a device computes (docs/decisions/opencl.md), from a probe's facts."""
    lanes = f" with {device['lanes']} lanes" if device["lanes"] > 1 else ""
    return f"family {device['family']}{lanes}"


def _opencl_remedy(facts: dict[str, Any]) -> str:
    if shutil.which("ld") is None:
        return install_system("binutils")
    if "unknown target CPU" in facts.get("failure", ""):
        return "this driver is older than the processor: " + install_system("pocl-opencl-icd")
    return "install a newer driver for this device; until then choose the numpy backend"


def _check_backend(probe: Prober) -> list[Finding]:
    facts = probe("backend")
    place = f" on {facts['device']}" if "device" in facts else ""
    found = f"{facts.get('name', '')}{place}, where none is asked for"
    if "why" in facts:
        found += f" ({facts['why'].partition(';')[0]})"
    remedy = "reinstall Emberfleet: pip install --force-reinstall emberfleet"
    return [_finding("backend", facts, found, "training and running models", remedy, required=True)]


def _check_linker(probe: Prober) -> list[Finding]:
    return [_program("linker", "ld", "compiling OpenCL kernels with PoCL", "binutils")]


def _check_compiler(probe: Prober) -> list[Finding]:
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), "cc")
    return [_program("C compiler", compiler, "building libraries that come without a wheel", "gcc")]


def _check_extras(probe: Prober) -> list[Finding]:
    purposes = {
        "server": "running a fleet's server",
        "convert": "writing .tflite models",
        "train": "reading pictures, TensorBoard logs",
    }
    findings = []
    for extra, purpose in purposes.items():
        absent = [name for name in LIBRARIES[extra] if find_spec(name) is None]
        if absent:
            found = "not installed: " + ", ".join(PUBLISHED_NAMES.get(name, name) for name in absent)
            findings.append(Finding(extra, Status.MISSING, found, purpose, install_extra(extra)))
        else:
            found = ", ".join(_library_version(name) for name in LIBRARIES[extra])
            findings.append(Finding(extra, Status.WORKS, found, purpose))
    return findings


def _finding(
    name: str, facts: dict[str, Any], found: str, needed_for: str, remedy: str, required: bool = False
) -> Finding:
    """The finding a probe's facts amount to; ``found`` describes it where it works."""
    if "failure" not in facts:
        return Finding(name, Status.WORKS, found.strip(), needed_for, required=required)
    status = Status.MISSING if "missing" in facts else Status.BROKEN
    return Finding(name, status, in_one_line(facts["failure"]), needed_for, remedy, required)


def _program(name: str, program: str, needed_for: str, package: str) -> Finding:
    path = shutil.which(program)
    if path is None:
        remedy = install_system(package)
        return Finding(name, Status.MISSING, f"no '{program}' on PATH", needed_for, remedy)
    return Finding(name, Status.WORKS, path, needed_for)


def _library_version(import_name: str) -> str:
    published = PUBLISHED_NAMES.get(import_name, import_name)
    try:
        return f"{published} {version(published)}"
    except PackageNotFoundError:
        return published


def _emberfleet_version() -> str:
    try:
        return version("emberfleet")
    except PackageNotFoundError:
        return "checkout, not installed"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _machine() -> str:
    cores = usable_cores()
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.system()
    return f"{system}, {platform.machine()}, {cores} core{'s' if cores != 1 else ''}"
