from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.examples.programs import run_example


def test_one_round_of_three_devices_makes_a_second_model(tmp_path: Path) -> None:
    for library in ("PIL", "sqlalchemy", "starlette", "uvicorn"):
        pytest.importorskip(library)
    said = run_example("federated_server/federated_server.py", "--out", tmp_path, "--epochs", "6")
    assert said.count("round 1: update sent") == 3
    assert said.count("model 2 is here") == 3
    assert "Model 2, 3 devices, 0 shut out" in said
    first, second = (float(share) for share in re.findall(r"^model \d: ([\d.]+) %", said, re.MULTILINE))
    assert second > first, said
    for name in ("anna", "bert", "chloe"):
        assert (tmp_path / name / "device.key").stat().st_mode & 0o077 == 0, "only the owner reads the key"
        assert json.loads((tmp_path / name / "device.json").read_text())["name"] == name


def test_it_does_not_run_over_a_fleet_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with pytest.raises(AssertionError, match="holds a fleet already"):
        run_example("federated_server/federated_server.py", "--out", tmp_path)
