"""`emberfleet import`: a .onnx becomes a folder like that of training, and goes on from there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from typer.testing import CliRunner

from emberfleet.cli.main import app
from emberfleet.core.signing import SigningKey
from emberfleet.train.trained import TrainedModel

GOLDEN = Path(__file__).parents[1] / "golden" / "onnx"
MOBILENET = GOLDEN / "mobilenet_torchscript_preserve_13.onnx"


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result.stdout if code == 0 else result.stderr


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photos in two folders."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name in ("light", "dark"):
        (root / name).mkdir()
        for index in range(6):
            pixels = random.integers(0, 128, (40, 36, 3)) + (127 if name == "light" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def imported(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MobileNet ready for 8 bits."""
    root = tmp_path_factory.mktemp("imported")
    (root / "labels.txt").write_text("\n".join(f"class {index}" for index in range(10)) + "\n\n")
    run("import", MOBILENET, "--out", root / "model", "--labels", root / "labels.txt", "--preprocess",
        "imagenet", "--calibrate", photos, "--threads", "1")  # fmt: skip
    return root / "model"


def test_the_folder_is_one_that_training_writes(imported: Path) -> None:
    model = TrainedModel.load(imported)
    assert model.quantized
    assert model.classes[3] == "class 3"
    assert model.preprocessing.shape == (33, 33, 3)
    assert model.settings["imported"] == "onnx"


def test_a_summary_says_what_was_read_and_how_to_get_8_bits(tmp_path: Path) -> None:
    words = run("import", MOBILENET, "--out", tmp_path / "m", "--preprocess", "unit")
    assert "38 nodes from 57 operators of pytorch 2.13" in words
    assert "33 x 33 x 3 to 10 classes" in words
    assert "constants 22" in words
    assert "`emberfleet calibrate` or --calibrate helps" in words
    refused = run("convert", tmp_path / "m", "--out", tmp_path / "m.ember", code=2)
    assert "emberfleet calibrate" in refused
    run("convert", tmp_path / "m", "--to", "onnx", "--out", tmp_path / "m.onnx")
    run("convert", tmp_path / "m", "--to", "tflite-float", "--out", tmp_path / "m.tflite")


def test_json_holds_the_summary_for_programs(tmp_path: Path) -> None:
    arguments = ("--out", tmp_path / "m", "--mean", "0.5", "--std", "0.25,0.5,0.25", "--json")
    facts = json.loads(run("import", GOLDEN / "dense_dynamo_22.onnx", *arguments))
    assert facts["opset"] == 22
    assert facts["std"] == [0.25, 0.5, 0.25]
    assert facts["quantized"] is False
    assert any("2 groups" in remark for remark in facts["remarks"])


def test_an_imported_model_is_packaged_inspected_retrained_and_run(
    imported: Path, photos: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key.pem"
    SigningKey.generate().save(key)
    trust = SigningKey.load(key).verify_key.text
    bundle = tmp_path / "model.ember"
    run("convert", imported, "--out", bundle, "--key", key)
    assert json.loads(run("inspect", bundle, "--trust", trust, "--json"))["labels"][3] == "class 3"
    photo = next(photos.rglob("*.png"))
    run("run", bundle, photo, "--trust", trust, "--backend", "numpy")
    arguments = ("--data", photos, "--out", tmp_path / "two.ember", "--epochs", "20", "--hold-out", "0.34",
                 "--batch", "4", "--trust", trust, "--key", key, "--backend", "numpy", "--json")  # fmt: skip
    result = CliRunner().invoke(app, ["retrain", str(bundle), *map(str, arguments)])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["classes"][-2:] == ["dark", "light"]


@pytest.mark.parametrize("target", ["onnx", "onnx-int8"])
def test_what_is_written_as_onnx_runs_in_onnx_runtime_and_float_comes_back(
    imported: Path, tmp_path: Path, target: str
) -> None:
    out = tmp_path / "out.onnx"
    facts = json.loads(run("convert", imported, "--to", target, "--out", out, "--json"))
    assert facts["bytes"] == out.stat().st_size
    session = onnxruntime.InferenceSession(out.read_bytes())
    scores = session.run(None, {"image": np.zeros((2, 3, 33, 33), np.float32)})[0]
    assert scores.shape == (2, 10)
    if target == "onnx":
        run("import", out, "--out", tmp_path / "back")
        back, model = TrainedModel.load(tmp_path / "back"), TrainedModel.load(imported)
        assert back.classes == model.classes
        assert back.preprocessing.mean == pytest.approx(model.preprocessing.mean)
    else:
        refused = run("import", out, "--out", tmp_path / "back", code=2)
        assert "is quantized already" in refused


@pytest.mark.parametrize(
    ("arguments", "wording"),
    [
        ((), "--preprocess imagenet, caffe, tf, unit, none"),
        (("--mean", "0.5"), "give --preprocess, or --mean and --std together"),
        (("--mean", "0.5", "--std", "1", "--preprocess", "unit"), "give --preprocess, or --mean and --std"),
        (("--mean", "a", "--std", "1"), "--mean is 'a', expected numbers separated by commas"),
        (("--mean", "0", "--std", "0"), "those of --std above 0"),
        (("--mean", "nan", "--std", "1"), "expected finite numbers"),
        (("--preprocess", "unit", "--size", "64"), "is 33 x 33, asked for 64 x 64"),
        (("--preprocess", "unit", "--labels", "few"), "2 labels for a network of 10 classes"),
        (("--preprocess", "unit", "--labels", "gap"), "line 2 is empty, expected one class a line"),
        (("--preprocess", "unit", "--labels", "binary"), "not UTF-8 text"),
        (("--preprocess", "unit", "--calibrate", "nowhere"), "is not a folder"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(
    arguments: tuple[str, ...], wording: str, tmp_path: Path
) -> None:
    (tmp_path / "few").write_text("a\nb\n")
    (tmp_path / "gap").write_text("a\n\nb\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    paths = {"few", "gap", "binary", "nowhere"}
    placed = [str(tmp_path / argument) if argument in paths else argument for argument in arguments]
    refused = run("import", MOBILENET, "--out", tmp_path / "m", *placed, code=2)
    assert wording in " ".join(refused.split())
    assert not (tmp_path / "m").exists()
