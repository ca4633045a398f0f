"""The demo as a user runs it, on a smaller scale: real processes, real HTTP, real deaths."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "handwriting_fleet" / "demo.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    done = subprocess.run(
        [sys.executable, DEMO, "--small", "--out", out],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def summary(made: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((made / "summary.json").read_text("utf-8"))
    return found


def test_the_summary_has_every_figure(summary: dict[str, Any]) -> None:
    shares = [summary[f"{name}_accuracy"] for name in ("base", "federated", "central", "float", "int8")]
    assert all(0.1 < share <= 1 for share in shares)
    assert set(summary["backends"]) == {"numpy", "opencl", "litert"}
    assert set(summary["seconds"]) == {"setup", "train", "convert", "compile", "fleet", "total"}
    assert summary["tflite_bytes"] <= 120_000
    assert 0 < summary["update_bytes"] < summary["bundle_bytes"]


def test_numpy_and_opencl_answer_with_the_same_bits(summary: dict[str, Any]) -> None:
    assert summary["backends"]["numpy"] == summary["backends"]["opencl"] == summary["int8_accuracy"]
    assert summary["agreement"] >= 0.98


def test_two_devices_die_in_round_three_and_the_round_completes(summary: dict[str, Any]) -> None:
    rounds = summary["rounds"]
    assert [row["round"] for row in rounds] == [1, 2, 3]
    assert [row["dropped"] for row in rounds] == [0, 0, 2]
    assert [row["accepted"] for row in rounds] == [6, 6, 4]
    assert all(
        set(row) == {"round", "cohort", "accepted", "dropped", "accuracy", "seconds"} for row in rounds
    )


def test_every_device_runs_the_model_it_enrolled_for(made: Path) -> None:
    runs = [json.loads(path.read_text("utf-8")) for path in (made / "devices").glob("*/first-run.json")]
    assert len(runs) == 8
    assert all(run["model"] >= 1 and 0 < run["accuracy"] <= 1 for run in runs)


def test_every_device_has_a_key_of_its_own_that_only_it_can_read(made: Path) -> None:
    keys = sorted((made / "devices").glob("*/device.key"))
    assert len(keys) == 8
    assert len({key.read_bytes() for key in keys}) == 8
    assert all(key.stat().st_mode & 0o777 == 0o600 for key in keys)


def test_the_report_shows_curves_pictures_and_tables_and_asks_nobody(made: Path) -> None:
    page = (made / "report.html").read_text("utf-8")
    for heading in ("Round by round", "Read now, misread before", "Which digit for which", "Rounds"):
        assert heading in page
    assert "data:image/png;base64," in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "https://" not in page


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", "utf-8")
    done = subprocess.run(
        [sys.executable, DEMO, "--small", "--out", tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "thesis.txt" in done.stderr
    assert (tmp_path / "thesis.txt").exists()
