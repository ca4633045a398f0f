"""`emberfleet convert --to android`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emberfleet.cli.main import app
from emberfleet.converters.android.aar import build_aar
from emberfleet.core.bundle import Bundle
from tests.converters.android.building import skip_unless_it_builds
from tests.runner.bundles import KEY
from tests.runtime.stripes import trained


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trained model, and the key that signs it."""
    trained().save(tmp_path / "model")
    KEY.save(tmp_path / "key.pem")
    return tmp_path


def test_the_bundle_in_the_library_gives_the_same_library_again(folder: Path) -> None:
    skip_unless_it_builds()
    out = folder / "model.aar"
    words = ["convert", str(folder / "model"), "--to", "android", "--out", str(out), "--version", "4"]
    done = CliRunner().invoke(app, [*words, "--key", str(folder / "key.pem")])
    assert done.exit_code == 0, done.output
    assert f"signed by {KEY.verify_key.text}" in done.stdout
    with zipfile.ZipFile(out) as archive:
        bundle = archive.read("assets/emberfleet/model.ember")
    assert Bundle.open(bundle, [KEY.verify_key]).manifest.model_version == 4
    assert build_aar(bundle, KEY.verify_key) == out.read_bytes()


def test_without_a_compiler_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JAVA_HOME", "ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(folder))
    out = folder / "model.aar"
    words = ["convert", str(folder / "model"), "--to", "android", "--out", str(out)]
    done = CliRunner().invoke(app, [*words, "--key", str(folder / "key.pem")])
    assert done.exit_code != 0
    assert not out.exists()
    assert "default-jdk-headless" in f"{done.output}{done.exception}"
