from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.engine.works import WORKS
from benchmarks.measure.memory import WAYS

ROOT = Path(__file__).resolve().parents[2]
SUBJECTS = (
    "startup", "memory", "training", "inference", "packages", "averaging", "rounds", "secure", "load",
    "engine",
)  # fmt: skip
ROW_KEYS = {"work", "threads", "ours_ms", "peer", "peer_ms", "ratio", "ours_rss_mib", "peer_rss_mib"}


def run(out: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--quick", "--out", str(out), *arguments]
    paths = os.pathsep.join(str(ROOT / name) for name in ("edge", "server", "converters"))
    subprocess.run(command, check=True, cwd=out, env={**os.environ, "PYTHONPATH": paths})
    return read(out / "summary.json")


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return value


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def summary(out: Path) -> dict[str, Any]:
    return run(out)


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
    row = timed(summary["training"]["rows"], "backend")["numpy"]
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
    for mode in ("secure", "sealed"):
        found = summary["rounds"][mode]
        assert found["rounds"] == 2
        assert found["seconds_per_round"] > 0
    assert summary["rounds"]["devices"] == 10


def test_sixty_simulated_devices_go_through_a_secure_round(summary: dict[str, Any]) -> None:
    assert summary["load"]["devices"] == 60
    assert summary["load"]["requests_per_s"] > 0
    assert all(row["p50_ms"] <= row["p99_ms"] for row in summary["load"]["rows"])


def test_averaging_is_compared_with_reading_the_bytes(summary: dict[str, Any]) -> None:
    names = [row["values"] for row in summary["averaging"]["rows"]]
    assert names == [
        f"{values}{how}"
        for values in ("float32", "int16", "int8")
        for how in ("", ", two threads", ", checked")
    ]
    assert all(row["times_reading"] > 0 for row in summary["averaging"]["rows"])


def test_secure_sums_are_masked_and_unmasked_exactly(summary: dict[str, Any]) -> None:
    found = summary["secure"]
    assert found["mask_ms"] > 0
    assert found["unmask_50_s"] > 0
    assert found["unmask_1000_s"] > 0
    assert 10_000 * 15 / 8 <= found["update_bytes"] < 10_100 * 15 / 8
    assert [row["masks"] for row in found["rows"]][:3] == [21, 15 * 14 + 35, 30 * 14 + 70]


def test_importing_the_runtime_brings_neither_an_engine_nor_a_server(summary: dict[str, Any]) -> None:
    rows = {row["statement"]: row for row in summary["startup"]["rows"]}
    numpy, runtime = rows["import numpy"], rows["from emberfleet.runtime import Runtime"]
    assert runtime["peak_mib"] < numpy["peak_mib"] + 15
    assert summary["startup"]["peak_mib"] == runtime["peak_mib"]


def test_only_measures_what_is_named(tmp_path: Path) -> None:
    assert set(run(tmp_path, "--only", "packages")) == {"machine", "quick", "seconds", "packages"}


def test_every_work_of_the_engine_has_its_rows_in_engine_json(summary: dict[str, Any], out: Path) -> None:
    engine = read(out / "engine.json")
    assert {row["work"] for row in engine["rows"]} == set(WORKS)
    assert all(row.keys() >= ROW_KEYS for row in engine["rows"])
    assert all(row["ours_ms"] > 0 and row["peer"] is None for row in engine["rows"])
    assert [row["work"] for row in engine["rows"] if row["backend"] == "numpy"] == ["train sq32"]
    assert engine["memory"] == summary["memory"]
    assert engine["startup"] == summary["startup"]["first_inference"]


def test_the_engines_trainings_learn(summary: dict[str, Any]) -> None:
    losses = [row["ours_losses"] for row in summary["engine"]["rows"] if "ours_losses" in row]
    assert len(losses) == 4
    assert all(last < first for first, last in losses)


def test_a_process_that_predicts_once_tells_its_memory_on_every_backend(summary: dict[str, Any]) -> None:
    peaks = {row["process"]: row["peak_mib"] for row in summary["memory"]["processes"]}
    assert set(peaks) == {name for name, _, _ in WAYS}
    assert all(10 < peak < 1000 for peak in peaks.values())


def test_an_arena_is_stated_with_the_bound_that_no_plan_can_pass(summary: dict[str, Any]) -> None:
    for row in summary["memory"]["arenas"]:
        assert 0 < row["bound_bytes"] <= row["arena_bytes"]


def test_the_first_inference_is_timed_from_the_import_and_from_the_start(summary: dict[str, Any]) -> None:
    for row in summary["startup"]["first_inference"]:
        assert 0 < row["after_import_s"] < row["process_s"]


def test_one_work_can_be_measured_alone(tmp_path: Path) -> None:
    found = run(tmp_path, "--only", "infer sq32 int8", "--peers", str(tmp_path / "none"))
    assert set(found) == {"machine", "quick", "seconds", "engine"}
    assert [row["work"] for row in found["engine"]["rows"]] == ["infer sq32 int8"]
    reasons = {entry["peer"]: entry["reason"] for entry in found["engine"]["skipped"]}
    assert reasons == dict.fromkeys(("LiteRT", "ONNX Runtime", "OpenVINO"), "no environment 'main'")


def test_nothing_is_left_but_the_figures(tmp_path: Path) -> None:
    run(tmp_path, "--only", "startup")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine.json", "summary.json"]
