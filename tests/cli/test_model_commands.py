"""convert, inspect, run and retrain, as a user calls them one after the other."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from emberfleet.cli.main import app
from emberfleet.core.bundle import Bundle
from emberfleet.core.errors import DeviceError, FormatError
from emberfleet.core.signing import SigningKey
from emberfleet.engine.selection import choose_backend
from emberfleet.runtime.runtime import Runtime
from emberfleet.train.trained import TrainedModel
from tests.runtime.stripes import CLASSES, stripes, trained

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


@dataclass(frozen=True)
class Desk:
    """A user's folder with a trained model, pictures of two classes, and settings of its own."""

    folder: Path

    def call(self, *words: str | Path, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == code, result.output
        return result

    @property
    def key(self) -> Path:
        return next(self.folder.glob("settings/**/developer.pem"))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setenv("HOME", str(tmp_path / "settings"))
    trained().save(tmp_path / "trained")
    data = stripes(80, 8, 110)
    for index, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
        folder = tmp_path / "photos" / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / f"{index}.png")
    return Desk(tmp_path)


def convert(desk: Desk, *more: str | Path) -> Path:
    out = desk.folder / "model.ember"
    desk.call("convert", desk.folder / "trained", "--out", out, *more)
    return out


def test_convert_makes_a_private_developer_key_and_says_so(desk: Desk) -> None:
    result = desk.call("convert", desk.folder / "trained", "--out", desk.folder / "model.ember")
    assert "made a developer key" in result.stderr
    assert desk.key.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(desk.key).verify_key.text in result.stdout
    again = desk.call("convert", desk.folder / "trained", "--out", desk.folder / "model.ember")
    assert "made" not in again.stderr


def test_float_launch_plans_are_added_where_asked_for(desk: Desk) -> None:
    plans = []
    for more in ((), ("--opencl-float",)):
        bundle = Bundle.open(convert(desk, *more), [SigningKey.load(desk.key).verify_key])
        plans.append([plan["name"] for plan in json.loads(bundle.part("opencl/plan.json"))["plans"]])
    assert plans == [["int8-cpu", "int8-gpu"], ["int8-cpu", "int8-gpu", "float32-cpu", "float32-gpu"]]


def test_a_converted_model_runs_on_pictures(desk: Desk) -> None:
    bundle = convert(desk)
    pictures = sorted((desk.folder / "photos" / "third").iterdir())[:2]
    result = desk.call("run", bundle, *pictures, "--backend", "numpy", "--json")
    found = json.loads(result.stdout)
    assert found["backend"] == "numpy"
    assert [entry["labels"] for entry in found["images"]] == [["third"], ["third"]]
    assert len(found["images"][0]["top"][0]) == 3
    shown = desk.call("run", bundle, pictures[0], "--backend", "numpy", "--top", "1")
    assert "third" in shown.stdout


def test_a_model_trained_in_float_only_says_what_to_do(desk: Desk) -> None:
    model = trained()
    tensors = {name: t for name, t in model.tensors.items() if not name.endswith("/range")}
    TrainedModel(model.graph, tensors, model.preprocessing, CLASSES).save(desk.folder / "trained")
    out = desk.folder / "model.tflite"
    assert "--quantize-epochs" in desk.call("convert", desk.folder / "trained", "--out", out, code=2).stderr
    desk.call("convert", desk.folder / "trained", "--to", "tflite-float", "--out", out)


def test_an_option_of_another_target_is_refused(desk: Desk) -> None:
    """Else a user would believe that it had done something."""
    words = ("convert", desk.folder / "trained", "--out", desk.folder / "model.onnx")
    for more in (
        ("--to", "onnx", "--author", "A"),
        ("--wheelhouse", desk.folder),
        ("--to", "wire", "--opencl-float"),
    ):
        said = desk.call(*words, *more, code=2).stderr
        assert any(str(word) in said for word in more[-2:])
        assert "it is for:" in said
    assert not (desk.folder / "model.onnx").exists()


def test_a_bundle_is_called_as_asked(desk: Desk) -> None:
    bundle = Bundle.open(convert(desk, "--name", "caps"), [SigningKey.load(desk.key).verify_key])
    assert bundle.manifest.model_name == "caps"


def test_inspect_shows_a_bundle_and_who_signed_it(desk: Desk) -> None:
    bundle = convert(desk)
    found = json.loads(desk.call("inspect", bundle, "--json").stdout)
    assert found["verified"] is True
    assert found["labels"] == list(CLASSES)
    assert "model.tflite" in found["parts"]
    assert found["bytes"] == bundle.stat().st_size
    assert "by a key you trust" in desk.call("inspect", bundle).stdout


def test_inspect_shows_a_stranger_s_bundle_as_such_and_run_refuses_it(desk: Desk) -> None:
    stranger = desk.folder / "stranger.pem"
    SigningKey.generate().save(stranger)
    bundle = convert(desk, "--key", stranger)
    trusted = SigningKey.generate().verify_key.text
    assert json.loads(desk.call("inspect", bundle, "--json", "--trust", trusted).stdout)["verified"] is False
    assert "will not run" in desk.call("inspect", bundle, "--trust", trusted).stdout
    picture = next((desk.folder / "photos" / "third").iterdir())
    assert "does not verify" in desk.call("run", bundle, picture, "--trust", trusted, code=2).stderr
    assert "--trust KEY" in desk.call("run", bundle, picture, code=2).stderr
    desk.call("run", bundle, picture, "--trust", stranger, "--backend", "numpy")


def test_inspect_shows_a_tflite(desk: Desk) -> None:
    out = desk.folder / "model.tflite"
    desk.call("convert", desk.folder / "trained", "--to", "tflite", "--out", out)
    found = json.loads(desk.call("inspect", out, "--json").stdout)
    assert (found["kind"], found["inputs"][0]["type"]) == ("tflite", "int8")
    assert "CONV_2D" in desk.call("inspect", out).stdout


@pytest.mark.parametrize(
    ("target", "operators"),
    [
        ("tflite-int8-float-io", {"QUANTIZE", "DEQUANTIZE"}),
        ("tflite-float", set()),
        ("tflite-float16", {"DEQUANTIZE"}),
        ("tflite-dynamic", set()),
    ],
)
def test_every_other_tflite_takes_and_gives_float32(desk: Desk, target: str, operators: set[str]) -> None:
    out = desk.folder / "model.tflite"
    desk.call("convert", desk.folder / "trained", "--to", target, "--out", out)
    found = json.loads(desk.call("inspect", out, "--json").stdout)
    assert {found["inputs"][0]["type"], found["outputs"][0]["type"]} == {"float32"}
    assert operators == {"QUANTIZE", "DEQUANTIZE"} & set(found["operators"])


def test_a_tflite_states_its_labels_and_what_it_was_told(desk: Desk) -> None:
    out = desk.folder / "model.tflite"
    texts = ("--name", "stripes", "--author", "A. Maker", "--license", "MIT", "--version", "3")
    desk.call("convert", desk.folder / "trained", "--to", "tflite", "--out", out, *texts)
    found = json.loads(desk.call("inspect", out, "--json").stdout)["metadata"]
    assert found["labels"] == list(CLASSES)
    assert (found["name"], found["author"], found["licence"], found["version"]) == (
        "stripes", "A. Maker", "MIT", "3"
    )  # fmt: skip
    shown = desk.call("inspect", out).stdout
    assert "A. Maker" in shown
    assert CLASSES[0] in shown


def test_retrain_writes_the_next_version(desk: Desk) -> None:
    bundle, out = convert(desk), desk.folder / "new.ember"
    result = desk.call(
        "retrain", bundle, "--data", desk.folder / "photos", "--out", out,
        "--scope", "full", "--epochs", "8", "--rate", "0.02", "--backend", "numpy", "--json",
    )  # fmt: skip
    found = json.loads(result.stdout)
    assert found["accepted"] is True
    assert found["after"] >= found["before"]
    new, old = (json.loads(desk.call("inspect", f, "--json").stdout) for f in (out, bundle))
    assert new["model_version"] == old["model_version"] + 1
    assert new["parent"] == old["sha256"]


def test_retraining_keeps_to_a_memory_limit_and_says_its_price(desk: Desk) -> None:
    try:
        choose_backend("opencl", 1)
    except DeviceError as error:
        pytest.skip(str(error))
    bundle = convert(desk)

    def retrain(name: str, *more: str) -> tuple[dict[str, Any], str]:
        result = desk.call(
            "retrain", bundle, "--data", desk.folder / "photos", "--out", desk.folder / name,
            "--scope", "full", "--epochs", "8", "--rate", "0.02",
            "--backend", "opencl", "--threads", "1", "--json", *more,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(result.stdout)
        return found, result.stderr

    kept, _ = retrain("kept.ember")
    limit = kept["memory"]["size_bytes"] * 4 // 5
    twice, said = retrain("twice.ember", "--memory-limit", str(limit))
    assert twice["memory"]["size_bytes"] <= limit
    assert twice["memory"]["computed_twice"]
    assert twice["after"] == kept["after"]
    assert "are computed twice, about" in " ".join(said.split())


def test_a_worse_result_is_not_written(desk: Desk) -> None:
    bundle, out = convert(desk), desk.folder / "new.ember"
    result = desk.call(
        "retrain", bundle, "--data", desk.folder / "photos", "--out", out,
        "--scope", "full", "--rate", "10", "--epochs", "1", "--backend", "numpy", code=1,
    )  # fmt: skip
    assert "not taken" in result.stdout
    assert not out.exists()


def test_mistakes_end_as_one_sentence(desk: Desk) -> None:
    bundle = convert(desk)
    missing = desk.folder / "nothing.png"
    assert "nothing.png" in desk.call("run", bundle, missing, code=2).stderr
    broken = desk.folder / "broken.ember"
    broken.write_bytes(bundle.read_bytes()[:-10])
    assert "error:" in desk.call("inspect", broken, code=2).stderr
    assert "--trust nonsense" in desk.call("run", bundle, missing, "--trust", "nonsense", code=2).stderr
    scope = desk.call(
        "retrain", bundle, "--data", desk.folder / "photos", "--out", missing, "--scope", "middle", code=2
    )
    assert "last-1-fires" in scope.stderr


def test_the_class_names_of_a_code_are_shown_position_by_position(desk: Desk) -> None:
    trained(2).save(desk.folder / "trained")
    bundle = convert(desk)
    picture = desk.folder / "code.png"
    Image.fromarray(np.asarray(stripes(1, 3, positions=2).images[0, ..., 0])).save(picture)
    lines = desk.call("run", bundle, picture, "--backend", "numpy").stdout.splitlines()
    assert [line.partition(": ")[0].endswith(f"[{place}]") for place, line in enumerate(lines)] == [
        True,
        True,
    ]


def test_a_wire_file_unpacks_to_the_bundle_that_convert_writes(desk: Desk) -> None:
    small, back = desk.folder / "model.emberwire", desk.folder / "back.ember"
    desk.call("convert", desk.folder / "trained", "--out", small, "--to", "wire")
    said = desk.call("unpack", small, "--out", back, "--json").stdout
    assert json.loads(said)["wire_bytes"] == small.stat().st_size < back.stat().st_size / 4
    assert Bundle.open(back, [SigningKey.load(desk.key).verify_key]).manifest.model_version == 1
    assert "error:" in desk.call("unpack", back, "--out", small, code=2).stderr


def test_a_wire_file_where_a_bundle_is_expected_says_how_to_unpack_it(desk: Desk) -> None:
    small = desk.folder / "model.emberwire"
    desk.call("convert", desk.folder / "trained", "--out", small, "--to", "wire")
    picture = next((desk.folder / "photos" / "third").iterdir())
    for words in (("inspect", small), ("run", small, picture)):
        assert "emberfleet unpack" in desk.call(*words, code=2).stderr
    for source in (small, small.read_bytes()):
        with pytest.raises(FormatError, match=r"a wire file.*emberfleet unpack"):
            Runtime.open(source, [SigningKey.generate().verify_key])


def test_calibrate_makes_a_model_ready_and_draws_what_each_tensor_loses(desk: Desk) -> None:
    model = TrainedModel.load(desk.folder / "trained")
    bare = {name: value for name, value in model.tensors.items() if not name.endswith("/range")}
    replace(model, tensors=bare).save(desk.folder / "bare")
    out, picture = desk.folder / "ready", desk.folder / "sensitivity.svg"
    said = desk.call(
        "calibrate", desk.folder / "bare", "--images", desk.folder / "photos", "--out", out,
        "--photos", "20", "--sensitivity", picture,
    ).stdout  # fmt: skip
    assert "calibrated with 20 photos" in said
    assert " dB" in said
    assert picture.read_text().startswith("<svg")
    assert TrainedModel.load(out).quantized
    desk.call("convert", out, "--out", desk.folder / "ready.ember")
