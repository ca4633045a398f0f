from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from emberfleet.runtime import doctor
from emberfleet.runtime.doctor import Finding, Status, diagnose, run_probe
from emberfleet.runtime.extras import LIBRARIES, extra_of_library

DEVICE = {
    "index": [0, 0],
    "name": "pthread-CPU",
    "platform": "Portable Computing Language",
    "driver": "OpenCL 3.0",
    "kind": "CPU",
    "compute_units": 2,
    "family": "cpu",
    "lanes": 1,
}
WORKING: dict[str, dict[str, Any]] = {
    "numpy": {"version": "2.0.0", "blas": "openblas"},
    "signatures": {"version": "50.0"},
    "hpke": {"version": "50.0"},
    "tflite": {"library": "ai-edge-litert", "version": "2.3.0"},
    "opencl": {"version": "2026.1", "devices": [DEVICE]},
    "opencl-device": {"mended": None},
    "backend": {"name": "opencl", "device": "pthread-CPU"},
}


def findings_with(**facts: dict[str, Any]) -> dict[str, Finding]:
    known = {**WORKING, **{name.replace("_", "-"): value for name, value in facts.items()}}
    return {finding.name: finding for finding in diagnose(lambda name, *arguments: known[name]).findings}


def script(folder: Path, text: str) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_child_that_dies_is_reported_by_its_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", script(tmp_path, "kill -SEGV $$"))
    assert run_probe("numpy") == {"failure": "ended by SIGSEGV"}


def test_child_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", script(tmp_path, "exec sleep 30"))
    monkeypatch.setattr(doctor, "PROBE_LIMIT_S", 0.2)
    assert run_probe("numpy") == {"failure": "no answer after 0 seconds"}


def test_child_that_says_nothing_readable_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", script(tmp_path, "echo half; echo 'no memory' >&2; exit 3"))
    assert run_probe("numpy") == {"failure": "ended with code 3: no memory"}


def test_chatter_of_a_driver_before_the_answer_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys, "executable", script(tmp_path, """echo driver says hello; echo '{"version": "1"}'""")
    )
    assert run_probe("numpy") == {"version": "1"}


@pytest.mark.parametrize("name", ["numpy", "signatures", "hpke"])
def test_base_libraries_do_what_they_should(name: str) -> None:
    facts = run_probe(name)
    assert "failure" not in facts
    assert facts["version"]


def test_tflite_runtime_runs_the_probe_model() -> None:
    if all(importlib.util.find_spec(name) is None for name in ("ai_edge_litert", "tflite_runtime")):
        pytest.skip("no TFLite runtime is installed")
    facts = run_probe("tflite")
    assert "failure" not in facts
    assert facts["library"] in {"ai-edge-litert", "tflite-runtime"}


def test_every_opencl_device_answers_with_a_result_or_a_reason() -> None:
    pytest.importorskip("pyopencl")
    devices = run_probe("opencl")["devices"]
    if not devices:
        pytest.skip("no OpenCL driver is installed")
    for device in devices:
        facts = run_probe("opencl-device", *map(str, device["index"]))
        assert facts.get("failure") or "mended" in facts


def test_all_parts_working_leaves_no_remedy_among_the_probed() -> None:
    found = findings_with()
    for name in ("numpy", "signatures", "encryption", "TFLite runtime", "OpenCL"):
        assert found[name].status is Status.WORKS
        assert found[name].remedy is None


def test_wrong_sums_in_numpy_break_the_base() -> None:
    facts = {**WORKING, "numpy": {"version": "2.0.0", "failure": "a matrix product came out wrong"}}
    diagnosis = diagnose(lambda name, *arguments: facts[name])
    assert not diagnosis.base_works


def test_an_old_cryptography_encrypts_by_its_primitives() -> None:
    found = findings_with(hpke={"version": "38.0.4", "composed": True})["encryption"]
    assert found.status is Status.WORKS
    assert found.found == "HPKE, cryptography 38.0.4, composed from its primitives"
    assert not found.required


def test_backend_in_use_is_named_with_the_reason_when_slow() -> None:
    found = findings_with(backend={"name": "numpy", "why": "no OpenCL device; install PoCL"})["backend"]
    assert found.found == "numpy, where none is asked for (no OpenCL device)"
    assert found.required


def test_missing_pyopencl_names_the_extra() -> None:
    found = findings_with(opencl={"failure": "No module named 'pyopencl'", "missing": "pyopencl"})
    assert found["OpenCL"].status is Status.MISSING
    assert found["OpenCL"].remedy == "pip install 'emberfleet[opencl]'"


def test_pyopencl_without_driver_names_a_driver() -> None:
    found = findings_with(opencl={"version": "2026.1", "devices": []})
    assert found["OpenCL"].status is Status.MISSING
    assert "pocl" in (found["OpenCL"].remedy or "")


def test_every_device_shows_how_it_computes_and_why_it_would_not() -> None:
    card = {**DEVICE, "index": [1, 0], "name": "card", "kind": "GPU", "family": "gpu", "lanes": 64}
    facts = {**WORKING, "opencl": {"version": "2026.1", "devices": [DEVICE, card]}}
    diagnosis = diagnose(lambda name, *arguments: facts[name])
    first, second = (finding.found for finding in diagnosis.findings if finding.name == "OpenCL")
    assert first.endswith("family cpu")
    assert "family gpu with 64 lanes; not used beside a processor" in second
    assert "EMBERFLEET_OPENCL_FAMILY" in second


def test_backend_in_use_is_named_with_its_device() -> None:
    assert findings_with()["backend"].found == "opencl on pthread-CPU, where none is asked for"


def test_crashing_driver_is_broken_and_named() -> None:
    found = findings_with(opencl_device={"failure": "ended by SIGABRT"})
    assert found["OpenCL"].status is Status.BROKEN
    assert found["OpenCL"].found == "pthread-CPU: ended by SIGABRT"


def test_driver_older_than_the_processor_is_said_plainly() -> None:
    log = "RuntimeError: clBuildProgram failed\n\nBuild on <device>:\n\nerror: unknown target CPU 'generic'\n"
    found = findings_with(opencl_device={"failure": log})
    assert "unknown target CPU 'generic'" in found["OpenCL"].found
    assert "\n" not in found["OpenCL"].found
    assert "older than the processor" in (found["OpenCL"].remedy or "")


def test_no_linker_on_path_is_what_to_install_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = findings_with(opencl_device={"failure": "RuntimeError: clBuildProgram failed"})
    assert found["linker"].status is Status.MISSING
    assert "binutils" in (found["linker"].remedy or "")
    assert found["OpenCL"].remedy == found["linker"].remedy


def test_cache_folder_that_cannot_be_made_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "below"))
    found = findings_with()["cache folder"]
    assert found.status is Status.BROKEN
    assert "XDG_CACHE_HOME" in (found.remedy or "")


def test_extra_with_an_absent_library_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIBRARIES, "train", ("PIL", "no_such_library"))
    found = findings_with()["train"]
    assert found.status is Status.MISSING
    assert "no_such_library" in found.found


def test_library_belongs_to_its_extra_by_any_of_its_modules() -> None:
    assert extra_of_library("starlette.routing") == "server"
    assert extra_of_library("star") is None


def test_probe_model_is_what_its_script_makes() -> None:
    pytest.importorskip("tflite")
    golden = _load(Path(__file__).parents[1] / "golden" / "make_probe_model.py")
    model = Path(doctor.__file__).with_name("probe.tflite").read_bytes()
    assert model == golden.make_probe_model()


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
