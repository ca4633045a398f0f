"""Flower beside us; needs a Python that has it: EMBERFLEET_FLOWER_PYTHON names one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emberfleet.cli.fleet_figures.children import our_modules_alone
from emberfleet.cli.fleet_figures.flower_rounds import free_ports, measure_flower
from emberfleet.cli.fleet_figures.measure import QUICK, FleetBench, Flower
from emberfleet.core.errors import ConfigError

PYTHON = os.environ.get("EMBERFLEET_FLOWER_PYTHON", "")
needs_flower = pytest.mark.skipif(not PYTHON, reason="EMBERFLEET_FLOWER_PYTHON names no Python that has flwr")


def test_another_python_finds_our_modules_and_none_of_our_libraries() -> None:
    code = "import emberfleet.runtime.measuring as m, sys; print(m.__file__); print(sys.path)"
    with our_modules_alone() as folder:
        done = subprocess.run(
            [sys.executable, "-S", "-c", code],
            env={"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            check=True,
        )
        found, paths = done.stdout.splitlines()
        assert found.startswith(str(folder))
        assert "site-packages" not in paths


def test_ports_differ_and_are_free() -> None:
    ports = free_ports(12)
    assert len(set(ports)) == 12


def test_a_python_without_flower_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(ConfigError, match="has no flwr"):
        Flower.of(Path(sys.executable))


@needs_flower
@pytest.mark.slow
def test_flower_takes_turns_with_us(tmp_path: Path) -> None:
    bench = FleetBench(tmp_path, tmp_path / "none", QUICK, Flower.of(Path(PYTHON)), lambda _: None)
    found = bench.run()
    theirs = found["flower"]
    assert list(theirs) == [name for name in found if name not in ("setting", "flower")]
    assert theirs["accuracy_difference"] is None
    assert all(value > 0 for name, value in theirs.items() if name != "accuracy_difference")
    assert theirs["unmask_1000_s"] == pytest.approx(20 * theirs["unmask_50_s"])
    assert found["accuracy_difference"] is None
    assert "does not exist" in found["setting"]["not_measured"]["accuracy_difference"]


@needs_flower
@pytest.mark.slow
def test_flowers_rounds_have_all_nodes(tmp_path: Path) -> None:
    found = measure_flower(Path(PYTHON), tmp_path / "flower", 2, 2, 1000)
    assert len(found["rounds"]) == 2
    assert found["agent_rss_mib"] > 30
