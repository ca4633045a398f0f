from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
from typer.testing import CliRunner

from emberfleet.cli.main import app

HEAVY = ("numpy", "cryptography", "pyopencl", "ai_edge_litert", "sqlalchemy", "starlette", "httpx", "PIL")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "before = set(sys.modules)\n"
        "from emberfleet.cli.main import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print(*(set(sys.modules) - before))\n"
    )
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert set(HEAVY).intersection(result.stdout.split()) == set()


def test_no_command_shows_the_help() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    assert "doctor" in result.output


def test_unknown_command_is_code_two() -> None:
    result = CliRunner().invoke(app, ["dokter"])
    assert result.exit_code == 2
    assert "dokter" in result.stderr


def test_version_is_that_of_the_installed_package() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    try:
        assert result.stdout == f"emberfleet {version('emberfleet')}\n"
    except PackageNotFoundError:
        pytest.skip("emberfleet runs from a checkout and is not installed")
