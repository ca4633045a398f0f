from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emberfleet.cli.bench_tune import tune_training
from emberfleet.cli.main import app
from emberfleet.converters.bundle import build_bundle
from emberfleet.core.errors import DeviceError
from emberfleet.core.signing import SigningKey
from emberfleet.engine.opencl.device import open_device
from emberfleet.runtime.workloads import built_in_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCL with a cache folder of its own; without it the tests skip with the reason."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        device = open_device()
    except DeviceError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(device, "tuned", {})
    monkeypatch.setattr(device, "tiles_remembered", False)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_training_step_is_profiled_and_its_totals_add_up() -> None:
    found = json.loads(run("profile", "small", "--batch", "2", "--each", "--json"))
    kernels = {row["kernel"]: row for row in found["kernels"]}
    assert {"conv2d_forward_f32", "conv2d_backward_weight_f32", "update_f32"} <= kernels.keys()
    assert sum(row["ms"] for row in kernels.values()) == pytest.approx(found["kernels_ms"])
    assert sum(row["ms"] for row in found["launches"]) == pytest.approx(found["kernels_ms"])
    assert sum(row["calls"] for row in kernels.values()) == len(found["launches"])
    assert found["peak_gflops"] > 0
    assert kernels["conv2d_forward_f32"]["gflops"] > 0
    assert kernels["update_f32"]["gflops"] is None


@pytest.mark.parametrize("work", ["retrain", "predict", "int8"])
def test_other_works_are_profiled_too(work: str) -> None:
    found = json.loads(run("profile", "--work", work, "--json"))
    assert found["work"] == work
    assert any(row["kernel"].startswith("conv2d_forward") for row in found["kernels"])
    assert (found["peak_gflops"] is None) == (work == "int8")


def test_the_profile_is_a_table_with_whole_columns() -> None:
    shown = run("profile", "--work", "predict", "--each")
    assert "GFLOP/s" in shown
    assert "conv2d_forward_f32" in shown
    assert "mrx=" in shown
    assert "…" not in shown


def test_a_bundle_can_be_profiled_by_who_trusts_it(tmp_path: Path) -> None:
    key = SigningKey.generate()
    path = tmp_path / "model.ember"
    build_bundle(built_in_model(), 1, key, path)
    found = json.loads(
        run("profile", str(path), "--trust", key.verify_key.text, "--work", "predict", "--json")
    )
    assert found["model"] == str(path)
    refused = CliRunner().invoke(
        app, ["bench", "profile", str(path), "--trust", SigningKey.generate().verify_key.text]
    )
    assert refused.exit_code == 2


@pytest.mark.parametrize("command", ["profile", "tune"])
def test_a_model_that_is_neither_file_nor_built_in_is_said_to_be(command: str) -> None:
    result = CliRunner().invoke(app, ["bench", command, "nothing"])
    assert result.exit_code == 2
    assert "small, sq32, sq224" in result.stderr


def test_tiles_are_tuned_once_and_kept() -> None:
    first = json.loads(run("tune", "--batch", "2", "--seconds", "600", "--json"))
    assert first["rows"]
    assert (first["known"], first["left"]) == (0, 0)
    assert all(row["gain"] >= 1.0 and row["trials"] for row in first["rows"])
    assert Path(first["file"]).exists()
    second = json.loads(run("tune", "--batch", "2", "--seconds", "600", "--json"))
    assert (second["rows"], second["known"]) == ([], len(first["rows"]))


def test_a_budget_of_nothing_measures_nothing_and_says_how_to_go_on() -> None:
    shown = run("tune", "--seconds", "0")
    assert "0 shapes measured" in shown
    assert "--seconds" in shown


def test_training_tunes_its_own_network_and_batch(tmp_path: Path) -> None:
    graph = built_in_model().graph
    assert "defaults replaced" in tune_training("opencl", graph, 2, None, seconds=600)
    kept = list((tmp_path / "emberfleet" / "opencl").glob("tiles-*.json"))
    assert len(kept) == 1
    found = json.loads(run("tune", "--batch", "2", "--predict", "0", "--seconds", "0", "--json"))
    assert found["known"] > 0
