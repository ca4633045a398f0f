import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import emberfleet.engine.opencl.device as device_module
from emberfleet.core.errors import ConfigError, DeviceError
from emberfleet.engine.opencl.device import OpenCLDevice, define_options, open_device


def test_a_kernel_builds_and_runs_on_this_machine(
    device: OpenCLDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import pyopencl as cl

    (tmp_path / "prelude.cl").write_text(device_module.read_source("prelude"))
    (tmp_path / "double.cl").write_text("KERNEL(twice)(GROUPS GLOBAL_OUT x) { STORE(x) = LOAD(x) * 2.0f; }")
    monkeypatch.setattr(device_module, "read_source", lambda name: (tmp_path / f"{name}.cl").read_text())
    x = np.arange(16, dtype=np.float32)
    buffer = device.allocate(x.nbytes, "a test")
    cl.enqueue_copy(device.queue, buffer, x)
    kernel = device.kernel("double", "twice")
    kernel.set_args(buffer)
    cl.enqueue_nd_range_kernel(device.queue, kernel, (1,), (1,))
    out = np.empty_like(x)
    cl.enqueue_copy(device.queue, out, buffer)
    width = device.limits.vector_width
    np.testing.assert_array_equal(out, np.where(np.arange(16) < width, 2 * x, x))


def test_a_source_that_does_not_compile_is_a_device_error_with_its_log(
    device: OpenCLDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        device_module, "read_source", lambda name: "KERNEL nonsense(" if name == "bad" else ""
    )
    with pytest.raises(DeviceError, match=r"(?s)building bad\.cl.*error"):
        device.build("bad")


def test_one_program_per_source_and_options(device: OpenCLDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Tile:
        rows: int

    monkeypatch.setattr(
        device_module,
        "read_source",
        lambda name: "__kernel void f() { int rows[ROWS]; }" if name == "f" else "",
    )
    assert device.build("f", Tile(2)) is device.build("f", Tile(2))
    assert device.build("f", Tile(2)) is not device.build("f", Tile(3))


def test_options_are_upper_cased_and_false_is_left_out() -> None:
    @dataclass(frozen=True)
    class Tile:
        mr: int
        relu: bool
        bias: bool

    assert define_options(Tile(4, True, False)) == ["-DMR=4", "-DRELU=1"]
    assert define_options(None) == []


def test_a_buffer_beyond_the_limit_is_refused_by_name(device: OpenCLDevice) -> None:
    with pytest.raises(DeviceError, match=r"the arena.*smaller batch"):
        device.allocate(device.limits.max_allocation_bytes + 1, "the arena")


def test_an_unknown_platform_names_those_here(device: OpenCLDevice) -> None:
    with pytest.raises(DeviceError, match="'no such platform' in its name; platforms here: "):
        open_device("no such platform")


def test_the_environment_chooses_the_platform(device: OpenCLDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    name = device.driver.split()[0]
    monkeypatch.setenv("EMBERFLEET_OPENCL_PLATFORM", name.lower())
    assert open_device().driver == device.driver
    monkeypatch.setenv("EMBERFLEET_OPENCL_PLATFORM", "no such platform")
    with pytest.raises(DeviceError, match="'no such platform' in its name"):
        open_device()


@pytest.mark.parametrize("threads", ["0", "two", "-1"])
def test_a_wrong_number_of_threads_is_refused(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBERFLEET_THREADS", threads)
    with pytest.raises(ConfigError, match=r"threads|THREADS"):
        open_device()


def run_python(code: str, **environment: str) -> str:
    """Run code in a fresh process: the number of threads and PATH are fixed when OpenCL is opened."""
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr


def test_no_linker_on_path_says_what_to_install(device: OpenCLDevice, tmp_path: Path) -> None:
    if "Portable" not in device.driver:
        pytest.skip("only PoCL needs a linker")
    code = (
        "from emberfleet.engine.opencl.device import *\n"
        "try: open_device(); print('opened')\n"
        "except DeviceError as error: print('DEVICE ERROR', error)\n"
    )
    text = run_python(code, PATH=str(tmp_path))
    assert "DEVICE ERROR" in text
    assert "'ld'" in text
    assert "install binutils" in text


def test_threads_bound_the_compute_units() -> None:
    code = "from emberfleet.engine.opencl.device import *; print('units', open_device().limits.compute_units)"
    assert "units 1" in run_python(code, EMBERFLEET_THREADS="1")
