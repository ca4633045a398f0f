from __future__ import annotations

import os
import subprocess
import sys

import pytest

from emberfleet.cli.fleet_figures.idle import resident_mib
from emberfleet.core.errors import DeviceError

HOLDS = "held = bytearray(b'x' * (64 << 20)); print('ready', flush=True); input()"


def test_what_a_process_has_started_counts_with_it() -> None:
    before = resident_mib(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-S", "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        alone, both = resident_mib(child.pid), resident_mib(os.getpid())
        child.communicate("\n")
    assert 64 < alone < 90
    assert both > before + 60


def test_a_process_that_is_gone_is_an_error() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(DeviceError, match=f"process {child.pid}"):
        resident_mib(child.pid)
