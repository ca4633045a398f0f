from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from emberfleet.cli.main import app
from emberfleet.converters.bundle import build_bundle
from emberfleet.core.signing import SigningKey
from emberfleet.runtime.workloads import built_in_model


def test_a_bundle_is_timed_on_every_backend_or_the_reason_is_given(tmp_path: Path) -> None:
    key = SigningKey.generate()
    path = tmp_path / "model.ember"
    build_bundle(built_in_model(), 1, key, path)
    trust = key.verify_key.text
    result = CliRunner().invoke(app, ["bench", str(path), "--trust", trust, "--seconds", "0.05", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [(row["work"], row["backend"], row["batch"]) for row in found["rows"]] == [
        ("train", "numpy", 16), ("train", "opencl", 16),
        ("infer", "numpy", 1), ("infer", "opencl", 1), ("infer", "litert", 1),
        ("infer", "numpy", 64), ("infer", "opencl", 64), ("infer", "litert", 64),
    ]  # fmt: skip
    assert all(row.get("skipped") or row["ms"]["median"] > 0 for row in found["rows"])
    assert found["rows"][0]["last_loss"] < found["rows"][0]["first_loss"]


def test_the_built_in_net_needs_no_file_and_gives_a_table() -> None:
    result = CliRunner().invoke(app, ["bench", "--seconds", "0.05", "--threads", "1"])
    assert result.exit_code == 0, result.output
    assert "images/s" in result.stdout


def test_a_bundle_that_is_not_trusted_is_refused_before_anything_is_timed(tmp_path: Path) -> None:
    path = tmp_path / "model.ember"
    build_bundle(built_in_model(), 1, SigningKey.generate(), path)
    trust = SigningKey.generate().verify_key.text
    result = CliRunner().invoke(app, ["bench", str(path), "--trust", trust])
    assert result.exit_code == 2
