from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import networks, training
from emberfleet.train.models import small_squeezenet

ROOT = Path(__file__).resolve().parents[2]
SUBJECTS = ("startup", "training", "inference", "packages", "averaging", "rounds")


def run(out: Path, *arguments: str, **variables: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--quick", "--out", str(out), *arguments]
    paths = os.pathsep.join(str(ROOT / name) for name in ("edge", "server", "converters"))
    subprocess.run(command, check=True, cwd=out, env={**os.environ, "PYTHONPATH": paths, **variables})
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text("utf-8"))
    return summary


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(tmp_path_factory.mktemp("bench"))


def timed(rows: list[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    return {row[key]: row for row in rows if "ms" in row}


def test_every_subject_is_in_the_summary_with_the_facts_of_the_machine(summary: dict[str, Any]) -> None:
    assert set(summary) == {"machine", "quick", "seconds", *SUBJECTS}
    assert set(summary["seconds"]) == {"total", *SUBJECTS}
    machine = summary["machine"]
    assert machine["cores"] == os.cpu_count()
    assert len(machine["load"]) == 3
    assert "numpy" in machine["versions"]


def test_training_is_timed_on_numpy_and_the_loss_falls(summary: dict[str, Any]) -> None:
    row = timed(summary["training"]["rows"], "engine")["numpy"]
    assert row["ms"]["low"] <= row["ms"]["median"] <= row["ms"]["high"]
    assert row["last_loss"] < row["first_loss"]
    assert row["parameters"] == 64970


def test_every_backend_is_timed_or_the_reason_is_given(summary: dict[str, Any]) -> None:
    for row in summary["training"]["rows"] + summary["inference"]["rows"]:
        assert row.get("skipped") or row["ms"]["median"] > 0
    inferred = summary["inference"]["rows"]
    assert {(row["backend"], row["batch"]) for row in inferred} == {
        (name, batch) for name in ("numpy", "opencl", "litert") for batch in (1, 64)
    }


def test_sizes_are_those_of_the_small_net(summary: dict[str, Any]) -> None:
    found = summary["packages"]
    assert 65_000 < found["tflite_bytes"] < 120_000
    assert found["update_16_bit_bytes"] - found["update_8_bit_bytes"] > 64970
    assert found["update_8_bit_bytes"] < 1.03 * 65_500


def test_rounds_are_run_with_all_ten_devices(summary: dict[str, Any]) -> None:
    protocol = summary["rounds"]["protocol"]
    assert protocol["rounds"] == 2
    assert protocol["seconds_per_round"] > 0
    assert summary["rounds"]["devices"] == 10


def test_averaging_is_compared_with_reading_the_bytes(summary: dict[str, Any]) -> None:
    names = [row["values"] for row in summary["averaging"]["rows"]]
    assert names == ["float32", "float32, checked", "int16", "int16, checked", "int8", "int8, checked"]
    assert all(row["times_reading"] > 0 for row in summary["averaging"]["rows"])


def test_importing_the_runtime_brings_neither_an_engine_nor_a_server(summary: dict[str, Any]) -> None:
    rows = {row["statement"]: row for row in summary["startup"]["rows"]}
    numpy, runtime = rows["import numpy"], rows["from emberfleet.runtime import Runtime"]
    assert runtime["peak_mib"] < numpy["peak_mib"] + 15
    assert summary["startup"]["peak_mib"] == runtime["peak_mib"]


def test_only_measures_what_is_named(tmp_path: Path) -> None:
    assert set(run(tmp_path, "--only", "packages")) == {"machine", "quick", "seconds", "packages"}


def test_nothing_is_left_but_the_summary(tmp_path: Path) -> None:
    run(tmp_path, "--only", "startup")
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_peer_without_torch_is_skipped_with_the_reason(tmp_path: Path) -> None:
    found = run(tmp_path, "--only", "training", EMBERFLEET_PEER_PYTHON=sys.executable)
    peer = {row["engine"]: row for row in found["training"]["rows"]}[training.TORCH]
    assert "torch" in peer["skipped"]


def test_the_small_net_that_is_timed_is_that_of_the_package() -> None:
    ours, theirs = networks.build(networks.SMALL), small_squeezenet()
    assert list(ours.parameters.values()) == list(theirs.parameters.values())
    assert list(ours.shapes.values()) == list(theirs.shapes.values())


def test_the_medium_net_has_its_known_size() -> None:
    assert networks.count_parameters(networks.build(networks.MEDIUM)) == 341_962
