from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.examples.programs import run_example

PROGRAM = "on_device_retraining/on_device_retraining.py"


def test_ten_pictures_of_each_digit_teach_two_new_ones(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    said = run_example(PROGRAM, "--out", tmp_path, "--epochs", "3")
    before, after = (
        [float(share) for share in re.findall(r"([\d.]+) %", line)]
        for line in said.splitlines()
        if line.startswith(("before:", "after:"))
    )
    assert before[2] == 0.0, "new classes are unknown before"
    assert after[2] > 30, said
    assert after[0] > before[0] + 4, said
    assert after[1] > before[1] - 10, "known classes are not forgotten"
    assert (tmp_path / "retrained.ember").stat().st_size > 50_000


def test_a_folder_of_ones_own_photos_gives_a_model_of_its_classes(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(2)
    for name, row in (("high", 4), ("low", 20)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for n in range(20):
            pixels = random.integers(0, 60, (40, 40, 3)).astype(np.uint8)
            pixels[row : row + 12, 5:35] = 230
            image.fromarray(pixels).save(tmp_path / "photos" / name / f"{n}.jpg")
    said = run_example(
        PROGRAM,
        "--photos",
        tmp_path / "photos",
        "--out",
        tmp_path / "out",
        "--epochs",
        "1",
        "--scope",
        "full",
    )
    assert "The pictures show high, low: 20 to learn from, 20 to judge by." in said
    (after,) = re.findall(r"^after: +([\d.]+) %", said, re.MULTILINE)
    assert float(after) >= 75, said
