from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emberfleet.core.errors import DeviceError
from emberfleet.engine.opencl.device import OpenCLDevice
from emberfleet.engine.opencl.launches import LaunchErrors
from emberfleet.engine.opencl.program import Program


def test_an_error_of_the_driver_in_a_step_says_what_was_done(device: OpenCLDevice) -> None:
    import pyopencl as cl

    buffer = device.allocate(64, "a test")
    with pytest.raises(DeviceError, match=r"copying failed: .*INVALID_VALUE"), LaunchErrors("copying"):
        cl.enqueue_copy(device.queue, np.zeros(4), buffer, src_offset=1 << 20)


def test_an_error_of_ours_in_a_step_stays_what_it_is() -> None:
    with pytest.raises(KeyError), LaunchErrors("copying"):
        raise KeyError


@pytest.mark.parametrize(
    ("threads", "runs", "how"), [("2", "10000", ""), ("3", "10000", ""), ("2", "200", "apart")]
)
def test_no_task_is_lost_or_done_twice_whoever_comes_late(
    device: OpenCLDevice, threads: str, runs: str, how: str
) -> None:
    if not device.fuses:
        pytest.skip("kernels are launched one by one here")
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.opencl.shared_runs", threads, runs, how],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_network_that_was_dropped_leaves_no_helper_in_its_memory(device: OpenCLDevice) -> None:
    alone = device.calling_thread()
    if alone is device:
        pytest.skip("one thread computes alone")
    for _ in range(200):
        program = Program(device, 8, 1)
        program.compile({})
        program.run()
        del program
        np.ones(1 << 12, np.float32)
