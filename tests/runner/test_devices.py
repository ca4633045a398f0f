"""Which plan a device gets, and what happens when a driver fails: on a driver made for it, fake_opencl.c."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.runner.building import run
from tests.runner.bundles import signed_bundle

MOST_CALLS = 1000
SOMEBODY = 65534


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sanitized: Path) -> Path:
    """The driver, a bundle and an image, beside a sanitized ember-run."""
    made = tmp_path_factory.mktemp("devices")
    (made / "ember-run").symlink_to(sanitized)
    flags = ["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    source = str(Path(__file__).with_name("fake_opencl.c"))
    subprocess.run(["gcc", *flags, "-o", str(made / "fake.so"), source], check=True, timeout=60)
    (made / "model.ember").write_bytes(signed_bundle())
    (made / "image.pgm").write_bytes(b"P5 9 9 255\n" + bytes(81))
    return made


def _run(folder: Path, *more: str, **device: str) -> subprocess.CompletedProcess[str]:
    words: list[str | Path] = [
        folder / "model.ember",
        "--verified",
        "--library",
        folder / "fake.so",
        "--json",
    ]
    return run(folder / "ember-run", *words, *more, **device)


@pytest.mark.parametrize(
    ("device", "plan"),
    [
        ({}, "int8-gpu"),
        ({"FAKE_TYPE": "cpu"}, "int8-cpu"),
        ({"FAKE_GROUP": "64"}, "int8-gpu"),
        ({"FAKE_GROUP": "63"}, "int8-cpu"),
        ({"FAKE_KERNEL_GROUP": "32"}, "int8-cpu"),
        ({"FAKE_FAIL": "4"}, "int8-cpu"),
    ],
)
def test_a_device_gets_the_plan_that_suits_it(folder: Path, device: dict[str, str], plan: str) -> None:
    done = _run(folder, **device)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["plan"] == plan


def test_a_plan_asked_for_by_name_is_not_replaced(folder: Path) -> None:
    done = _run(folder, "--plan", "gpu", FAKE_GROUP="16")
    assert done.returncode == 1
    assert "groups of at most 16 work-items, the plan needs 64" in done.stderr


def test_a_device_of_little_local_memory_is_told_how_much_is_needed(folder: Path) -> None:
    done = _run(folder, "--plan", "gpu", FAKE_LOCAL="16")
    assert done.returncode == 1
    assert "has 16 bytes of local memory for a group, the plan needs" in done.stderr


def test_a_program_with_the_rights_of_another_loads_no_library_of_its_user(folder: Path, built: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a program that runs as somebody else")
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        driver, program = Path(made, "fake.so"), Path(made, "ember-run")
        shutil.copy(folder / "fake.so", driver)
        shutil.copy(built / "ember-run", program)
        assert "a device of nothing" in run(program, "--list", EMBER_OPENCL_LIBRARY=str(driver)).stdout
        os.chown(program, SOMEBODY, SOMEBODY)
        program.chmod(0o4755)
        if os.statvfs(made).f_flag & os.ST_NOSUID:
            pytest.skip("this file system runs no program as somebody else")
        done = run(program, "--list", EMBER_OPENCL_LIBRARY=str(driver))
        assert "a device of nothing" not in done.stdout
        assert "a device of nothing" in run(program, "--list", "--library", driver).stdout


def test_a_device_without_64_bit_integers_runs_no_int8(folder: Path) -> None:
    done = _run(folder, FAKE_PROFILE="EMBEDDED_PROFILE")
    assert done.returncode == 1
    assert "no 64-bit integers" in done.stderr
    assert "run the .tflite" in done.stderr


def test_every_failure_of_a_driver_is_told_and_leaves_nothing_behind(folder: Path) -> None:
    image = ("--input", str(folder / "image.pgm"))
    told = set()
    for number in (*range(1, 40), *range(40, MOST_CALLS, 13)):
        done = _run(folder, *image, FAKE_TYPE="cpu", FAKE_FAIL=str(number))
        assert "Sanitizer" not in done.stderr, (number, done.stderr)
        if done.returncode == 0:
            break
        assert done.returncode == 1, (number, done.stderr)
        assert done.stderr.startswith("ember-run: OpenCL: ") or "the plan gives" in done.stderr, done.stderr
        told.add(done.stderr)
    assert done.returncode == 0, "the driver failed at a call that the runner makes no more"
    assert any("it failed as asked" in text for text in told)
    assert len(told) >= 8


def test_scores_that_are_no_numbers_are_null(folder: Path) -> None:
    image = ("--input", str(folder / "image.pgm"))
    done = _run(folder, *image, "--precision", "float32", FAKE_OUTPUT="255")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout, parse_constant=pytest.fail)["scores"] == [None] * 5
