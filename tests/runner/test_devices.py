"""Which plan a device gets, and what happens when a driver fails: on a driver made for it, fake_opencl.c."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.runner.building import run
from tests.runner.bundles import signed_bundle

MOST_CALLS = 1000


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
