"""The commands and the program of README.md, run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emberfleet.train.report.pictures import encode_png
from tests.examples.programs import ROOT, environment

README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of two classes that are easy to tell apart."""
    pytest.importorskip("PIL")
    folder = tmp_path_factory.mktemp("readme")
    random = np.random.default_rng(4)
    for name, count in (("my-photos", 30), ("more-photos", 20)):
        for n in range(2 * count):
            pixels = random.integers(0, 90, (48, 64, 3)).astype(np.uint8)
            pixels[8 + 24 * (n % 2) : 16 + 24 * (n % 2)] = 220
            path = folder / name / ("high", "low")[n % 2] / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(pixels))
    (folder / "new-photo.jpg").write_bytes((folder / "my-photos" / "low" / "1.png").read_bytes())
    return folder


def block(language: str, containing: str) -> str:
    """The fenced piece of README.md that contains a text."""
    pieces: list[str] = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return next(piece for piece in pieces if containing in piece)


def test_five_lines_of_shell_and_ten_of_python_do_what_they_say(workplace: Path) -> None:
    lines = block("sh", "--root my-photos").splitlines()
    assert len(lines) == 5
    env = environment(XDG_CONFIG_HOME=str(workplace / "settings"))
    said = []
    for line in lines:
        _, *words = line.split()
        # Few epochs: the point here is that the lines fit together.
        more = ["--epochs", "2", "--quantize-epochs", "1"] if words[0] == "train" else []
        done = subprocess.run(
            [sys.executable, "-m", "emberfleet.cli", *words, *more],
            cwd=workplace, env=env, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        worse = words[0] == "retrain" and done.returncode == 1 and "not taken" in done.stdout
        assert done.returncode == 0 or worse, f"{line}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    assert (workplace / "my-model" / "report.html").exists()
    (public_key,) = re.findall(r"signed by (\S+)", said[1])
    assert re.match(r"new-photo.jpg: (high|low) ", said[3]), said[3]

    program = block("python", "Runtime.open")
    assert len([line for line in program.splitlines() if line]) == 10
    done = subprocess.run(
        [sys.executable, "-c", program.replace("PUBLIC KEY", public_key)],
        cwd=workplace, env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers, reason, accuracy = done.stdout.splitlines()
    assert answers.count("high") + answers.count("low") == 5
    assert "taken" in reason
    assert 0.0 <= float(accuracy) <= 1.0
