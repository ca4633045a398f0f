from __future__ import annotations

import json
import re
from typing import Any

import pytest
from typer.testing import CliRunner

from emberfleet.cli.main import app
from emberfleet.runtime import doctor
from emberfleet.runtime.doctor import Diagnosis, Finding, Status

WORKING = Finding("numpy", Status.WORKS, "2.0 with OpenBLAS", "everything", required=True)
MISSING = Finding(
    "server", Status.MISSING, "not installed: uvicorn", "a server", "pip install 'emberfleet[server]'"
)
BROKEN = Finding(
    "numpy", Status.BROKEN, "wrong sums [here]", "everything", "pip install numpy", required=True
)


def run_doctor(monkeypatch: pytest.MonkeyPatch, findings: tuple[Finding, ...], *arguments: str) -> Any:
    diagnosis = Diagnosis("Linux, x86_64, 2 cores", "3.11.7", "0.1.0", findings)
    monkeypatch.setattr(doctor, "diagnose", lambda: diagnosis)
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_missing_optional_part_is_no_failure_and_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_doctor(monkeypatch, (WORKING, MISSING))
    assert result.exit_code == 0
    assert "pip install 'emberfleet[server]'" in result.stdout
    assert "optional" in result.stdout


def test_broken_base_ends_with_code_one(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_doctor(monkeypatch, (BROKEN, MISSING))
    assert result.exit_code == 1
    assert "wrong sums [here]" in result.stdout
    assert re.search(r"cannot run here before this is mended: numpy\.", result.stdout)


def test_nothing_to_mend_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_doctor(monkeypatch, (WORKING,))
    assert "Everything works." in result.stdout
    assert "To mend" not in result.stdout


def test_one_command_that_mends_two_parts_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = Finding("dashboard", Status.MISSING, "no uvicorn", "a server", MISSING.remedy)
    result = run_doctor(monkeypatch, (WORKING, MISSING, twin))
    assert result.stdout.count("pip install 'emberfleet[server]'") == 1
    assert "server, dashboard" in result.stdout


def test_json_holds_what_the_table_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_doctor(monkeypatch, (BROKEN,), "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["base_works"] is False
    assert report["findings"] == [
        {
            "name": "numpy",
            "status": "broken",
            "found": "wrong sums [here]",
            "needed_for": "everything",
            "remedy": "pip install numpy",
            "required": True,
        }
    ]


def test_doctor_on_this_machine_finds_a_working_base() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    status = {finding["name"]: finding["status"] for finding in report["findings"]}
    assert status["numpy"] == status["signatures"] == status["Python"] == "works"
    assert all(finding["remedy"] for finding in report["findings"] if finding["status"] != "works")
