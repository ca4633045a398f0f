from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from emberfleet.converters.raspberrypi.wheelhouse import read_wheelhouse
from emberfleet.core.errors import ConversionError

GOOD = (
    "httpx-0.28.1-py3-none-any.whl",
    "numpy-2.5.5-cp313-cp313-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl",
    "tflite_runtime-2.14.0-cp311-cp311-manylinux_2_34_armv7l.whl",
    "flatbuffers-25.12.19-py2.py3-none-any.whl",
    "built-1.0-1-cp311-cp311-linux_armv6l.whl",
)


def wheel(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.py", "")
    return path


def test_wheels_for_a_pi_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in GOOD:
        wheel(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no wheel")
    found = read_wheelhouse(tmp_path)
    assert [entry.name for entry in found] == sorted(GOOD)
    assert found[0].data == (tmp_path / sorted(GOOD)[0]).read_bytes()


@pytest.mark.parametrize(
    "name",
    ["numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl", "numpy-2.4.6-cp311-cp311-macosx_11_0_arm64.whl"],
)
def test_a_wheel_for_another_processor_is_refused(tmp_path: Path, name: str) -> None:
    wheel(tmp_path / name)
    with pytest.raises(ConversionError, match="pip download"):
        read_wheelhouse(tmp_path)


@pytest.mark.parametrize("name", ["numpy.whl", "numpy-2.4.6.whl", "a b-1-py3-none-any.whl"])
def test_a_name_that_is_none_of_a_wheel_is_refused(tmp_path: Path, name: str) -> None:
    wheel(tmp_path / name)
    with pytest.raises(ConversionError, match="not a wheel"):
        read_wheelhouse(tmp_path)


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / GOOD[0]).write_bytes(b"not a zip")
    with pytest.raises(ConversionError, match="not a wheel"):
        read_wheelhouse(tmp_path)


def test_no_folder_and_no_wheels_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="no such folder"):
        read_wheelhouse(tmp_path / "missing")
    with pytest.raises(ConversionError, match="0 wheels"):
        read_wheelhouse(tmp_path)
