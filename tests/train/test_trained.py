"""A trained model's folder reads back the same, and says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from emberfleet.core.errors import FormatError, ShapeError, StorageError
from emberfleet.core.graph import Graph
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.core.tensors import encode_tensors
from emberfleet.train.history import EpochRecord
from emberfleet.train.initialisation import initial_tensors
from emberfleet.train.trained import GRAPH_FILE, TENSORS_FILE, TRAIN_FILE, TrainedModel

PIXELS = Preprocessing(8, 8, 1)


@pytest.fixture
def model(tiny_graph: Graph) -> TrainedModel:
    return TrainedModel(
        tiny_graph,
        initial_tensors(tiny_graph, 0, PIXELS),
        PIXELS,
        ("a", "b", "\u00e9"),
        (EpochRecord(1, "float", 0.1, 0.5, None, None, 1.0),),
        {"optimizer": "Adam()", "augmentation": {"erase_area": [0.1, 0.2]}},
        {"test_accuracy": 0.5},
    )


def test_a_folder_reads_back_what_was_written(tmp_path: Path, model: TrainedModel) -> None:
    model.save(tmp_path / "new" / "folder")
    found = TrainedModel.load(tmp_path / "new" / "folder")
    for name in ("graph", "preprocessing", "classes", "history", "settings", "figures"):
        assert getattr(found, name) == getattr(model, name)
    assert {k: v.tobytes() for k, v in found.tensors.items()} == {
        k: v.tobytes() for k, v in model.tensors.items()
    }


def test_a_model_is_quantized_once_every_range_is_known(model: TrainedModel) -> None:
    assert not model.quantized
    ranges = {
        f"{p}/range": np.array([0, 1], np.float32) for p in ("input", "relu1", "relu2", "head", "logits")
    }
    full = TrainedModel(model.graph, {**model.tensors, **ranges}, PIXELS, model.classes)
    assert full.quantized


def test_files_of_two_runs_do_not_mix(tmp_path: Path, model: TrainedModel) -> None:
    model.save(tmp_path)
    other = {**model.tensors, "head/bias": np.ones(3, np.float32)}
    (tmp_path / TENSORS_FILE).write_bytes(encode_tensors(other))
    with pytest.raises(FormatError, match="does not belong"):
        TrainedModel.load(tmp_path)


@pytest.mark.parametrize("name", [TENSORS_FILE, GRAPH_FILE, TRAIN_FILE])
def test_a_missing_file_is_named(tmp_path: Path, model: TrainedModel, name: str) -> None:
    model.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(StorageError, match=name):
        TrainedModel.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"classes": ["a", "b"]},
        {"classes": "abc"},
        {"preprocessing": {}},
        {"figures": {"test_accuracy": "high"}},
        {"settings": []},
        {"history": [{}]},
        {"sha256": None},
    ],
    ids=str,
)
def test_a_record_that_does_not_fit_is_refused(
    tmp_path: Path, model: TrainedModel, change: dict[str, object]
) -> None:
    model.save(tmp_path)
    file = tmp_path / TRAIN_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(FormatError):
        TrainedModel.load(tmp_path)


def test_tensors_that_are_not_finite_are_refused(tmp_path: Path, model: TrainedModel) -> None:
    broken = {**model.tensors, "head/bias": np.array([0, np.nan, 0], np.float32)}
    TrainedModel(model.graph, broken, PIXELS, model.classes).save(tmp_path)
    with pytest.raises(FormatError, match="head/bias"):
        TrainedModel.load(tmp_path)


def test_a_model_that_does_not_fit_together_cannot_be_made(model: TrainedModel) -> None:
    with pytest.raises(ShapeError, match="class names"):
        TrainedModel(model.graph, model.tensors, PIXELS, ("a", "b"))
    with pytest.raises(ShapeError, match="reads"):
        TrainedModel(model.graph, model.tensors, Preprocessing(9, 8, 1), model.classes)
    with pytest.raises(ShapeError, match="missing"):
        TrainedModel(model.graph, {}, PIXELS, model.classes)
