"""`emberfleet convert --to raspberrypi`, as a user calls it."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emberfleet.cli.main import app
from emberfleet.core.bundle import Bundle
from emberfleet.core.signing import SigningKey
from tests.converters.raspberrypi.test_deb import unpacked
from tests.runtime.stripes import trained


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEBFULLNAME", "Ada Lovelace")
    monkeypatch.setenv("DEBEMAIL", "ada@example.org")
    trained().save(tmp_path / "trained")
    SigningKey.generate().save(tmp_path / "key.pem")
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "h11-0.16.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("h11.py", "")
    return tmp_path


def convert(desk: Path, *more: str, code: int = 0) -> str:
    words = ["convert", str(desk / "trained"), "--to", "raspberrypi", "--out", str(desk / "m.deb")]
    result = CliRunner().invoke(app, [*words, "--key", str(desk / "key.pem"), *more])
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_writes_a_package_with_a_signed_model_and_the_wheels(desk: Path) -> None:
    said = convert(desk, "--version", "3", "--wheelhouse", str(desk / "wheels"))
    key = SigningKey.load(desk / "key.pem").verify_key
    assert key.text in said
    files = unpacked((desk / "m.deb").read_bytes(), "data.tar.xz")
    assert Bundle.open(files["./usr/share/emberfleet/model.ember"][1], [key]).manifest.model_version == 3
    assert "./usr/lib/emberfleet/wheelhouse/h11-0.16.0-py3-none-any.whl" in files
    control = unpacked((desk / "m.deb").read_bytes(), "control.tar.xz")["./control"][1].decode()
    assert "Maintainer: Ada Lovelace <ada@example.org>\n" in control
    assert re.search(r"^Version: .*\+model3$", control, re.MULTILINE)


def test_a_folder_without_wheels_is_said_to_be_so(desk: Path) -> None:
    (desk / "empty").mkdir()
    assert "0 wheels" in convert(desk, "--wheelhouse", str(desk / "empty"), code=2)
    assert not (desk / "m.deb").exists()
