"""`emberfleet train`: what it writes, what it says, and how it refuses."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from emberfleet.cli.main import app
from emberfleet.core.errors import DeviceError
from emberfleet.engine.selection import choose_backend
from emberfleet.train.trained import TrainedModel

QUICK = (
    "--epochs=1", "--quantize-epochs=1", "--batch=16", "--width=0.25", "--backend=numpy", "--threads=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in MNIST's format: 60 training and 20 test images, bright where their digit says."""
    root = tmp_path_factory.mktemp("digits")
    random = np.random.default_rng(0)
    for prefix, count in (("train", 60), ("t10k", 20)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = random.integers(0, 50, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[label * 2 : label * 2 + 8] += 150
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (root / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
        header = struct.pack(">II", 0x801, count)
        (root / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.tobytes()))
    return root


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["train", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_training_writes_a_model_that_loads_a_report_and_a_summary(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    code, stdout, stderr = run("--data=mnist", f"--root={digits}", f"--out={out}", "--json", *QUICK)
    assert code == 0
    summary = json.loads(stdout)
    model = TrainedModel.load(out)
    assert summary["test_accuracy"] == model.figures["test_accuracy"]
    assert summary["quantized"] is True
    assert summary["epochs"] == len(model.history) == 2
    assert "Trained on mnist" in (out / "report.html").read_text("utf-8")
    assert "computing with numpy" in stderr


def test_resuming_a_finished_run_gives_the_same_bytes(digits: Path, tmp_path: Path) -> None:
    options = ("--data=mnist", f"--root={digits}", f"--out={tmp_path}", *QUICK)
    assert run(*options)[0] == 0
    before = (tmp_path / "model.safetensors").read_bytes()
    assert run(*options, "--resume")[0] == 0
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data=letters",), "letters"),
        (("--data=mnist", "--optimizer=magic"), "magic"),
        (("--data=mnist", "--model=alexnet"), "alexnet"),
        (("--data=mnist", "--schedule=sine"), "sine"),
        (("--data=mnist", "--limit=0"), "limit"),
        (("--data=mnist", "--memory-limit=lots"), "'lots' is no size"),
        (("--data=mnist", "--backend=abacus"), "abacus"),
        (("--data=mnist", "--epochs=0", "--quantize-epochs=0"), "epochs"),
    ],
)
def test_a_mistake_ends_in_one_sentence_and_code_2(
    digits: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, stdout, stderr = run(*QUICK, f"--root={digits}", f"--out={tmp_path}", *arguments)
    assert code == 2
    assert stdout == ""
    assert words in stderr
    assert "Traceback" not in stderr


def test_a_memory_limit_is_kept_said_and_changes_no_bit(digits: Path, tmp_path: Path) -> None:
    skip_without_opencl()
    options = ("--data=mnist", f"--root={digits}", *QUICK, "--backend=opencl", "--json")
    code, stdout, stderr = run(*options, f"--out={tmp_path / 'kept'}")
    assert code == 0
    assert "Memory for values" not in stderr
    kept = json.loads(stdout)["memory"]
    assert kept["float"]["limit_bytes"] is None
    limit = kept["quantized"]["size_bytes"] * 4 // 5
    code, stdout, stderr = run(*options, f"--out={tmp_path / 'twice'}", f"--memory-limit={limit}")
    assert code == 0
    memory = json.loads(stdout)["memory"]["quantized"]
    assert memory["size_bytes"] <= limit == memory["limit_bytes"]
    assert memory["computed_twice"]
    assert " ".join(stderr.split()).count("are computed twice, about") == 2
    files = [tmp_path / name / "model.safetensors" for name in ("kept", "twice")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_memory_limit_that_cannot_be_kept_says_what_is_needed(digits: Path, tmp_path: Path) -> None:
    skip_without_opencl()
    options = ("--data=mnist", f"--root={digits}", f"--out={tmp_path}", *QUICK, "--backend=opencl")
    code, _, stderr = run(*options, "--memory-limit=10K")
    assert code == 2
    assert "choose a smaller batch or a higher limit" in " ".join(stderr.split())


def test_numpy_keeps_to_a_memory_limit_too(digits: Path, tmp_path: Path) -> None:
    options = ("--data=mnist", f"--root={digits}", f"--out={tmp_path}", *QUICK, "--json")
    code, stdout, _ = run(*options)
    assert code == 0
    limit = json.loads(stdout)["memory"]["quantized"]["size_bytes"] * 9 // 10
    code, stdout, stderr = run(*options, f"--memory-limit={limit}")
    assert code == 0
    assert json.loads(stdout)["memory"]["quantized"]["size_bytes"] <= limit
    assert "are computed twice, about" in " ".join(stderr.split())


def skip_without_opencl() -> None:
    try:
        choose_backend("opencl", 1)
    except DeviceError as error:
        pytest.skip(str(error))


def test_on_numpy_there_is_nothing_to_tune_and_that_is_said(digits: Path, tmp_path: Path) -> None:
    code, _, stderr = run(
        "--data=mnist", f"--root={digits}", f"--out={tmp_path / 'model'}", "--limit=20", "--tune", *QUICK
    )
    assert code == 0
    assert "nothing to tune: computing with numpy" in stderr
