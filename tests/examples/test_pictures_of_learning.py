from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from emberfleet.core.preprocessing import Preprocessing
from emberfleet.engine.selection import choose_backend
from emberfleet.train.initialisation import initial_tensors
from emberfleet.train.models import small_squeezenet
from emberfleet.train.trained import TrainedModel
from tests.examples.programs import example_module, run_example

FOLDER = "pictures_of_learning"


@pytest.fixture
def model() -> TrainedModel:
    graph = small_squeezenet(width=0.5)
    preprocessing = Preprocessing(28, 28, 1)
    tensors = initial_tensors(graph, 3, preprocessing)
    return TrainedModel(graph, tensors, preprocessing, tuple("0123456789"))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (6, 28, 28, 1)).astype(np.uint8)


def test_program_writes_one_page_that_carries_its_pictures(tmp_path: Path) -> None:
    said = run_example(
        f"{FOLDER}/{FOLDER}.py", "--out", tmp_path, "--epochs", "1", "--limit", "300", "--backend", "numpy"
    )
    page = (tmp_path / "report.html").read_text()
    assert [float(share) for share in re.findall(r"([\d.]+) % of 300 test images", said)] == [
        float(share) for share in re.findall(r"<b>([\d.]+) %</b>", page)[:3]
    ]
    assert page.count("data:image/png;base64,") >= 10 + 64 + 32
    assert page.count("<circle") > 300
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_scores_of_the_places_average_to_the_logits(
    monkeypatch: pytest.MonkeyPatch, model: TrainedModel, images: np.ndarray
) -> None:
    inside = example_module(monkeypatch, FOLDER, "inside")
    backend = choose_backend("numpy")
    scores = inside.place_scores(backend, model, images)
    logits = backend.predictor(model.graph, model.tensors, 6).run(model.preprocessing.apply(images))
    assert scores.shape == (6, 7, 7, 10)
    np.testing.assert_allclose(scores.mean(axis=(1, 2)), logits, rtol=1e-4, atol=1e-5)


def test_the_last_layer_gives_the_logits_from_the_pooled_features(
    monkeypatch: pytest.MonkeyPatch, model: TrainedModel, images: np.ndarray
) -> None:
    inside = example_module(monkeypatch, FOLDER, "inside")
    backend = choose_backend("numpy")
    features = inside.pooled_features(backend, model, images)
    logits = backend.predictor(model.graph, model.tensors, 6).run(model.preprocessing.apply(images))
    weight, bias = model.tensors["head/weight"][:, 0, 0, :], model.tensors["head/bias"]
    np.testing.assert_allclose(features @ weight.T + bias, logits, rtol=1e-4, atol=1e-5)


def test_principal_axes_find_the_directions_of_most_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = example_module(monkeypatch, FOLDER, "inside")
    random = np.random.default_rng(1).standard_normal((500, 3)) * np.array([0.1, 5.0, 1.0])
    points, share = inside.principal_axes(random.astype(np.float32), 2)
    assert abs(np.corrcoef(points[:, 0], random[:, 1])[0, 1]) > 0.999
    assert abs(np.corrcoef(points[:, 1], random[:, 2])[0, 1]) > 0.99
    assert share == pytest.approx((25 + 1) / (25 + 1 + 0.01), abs=0.002)


def test_a_map_is_orange_where_the_evidence_is_and_keeps_the_ink(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = example_module(monkeypatch, FOLDER, "drawing")
    image = np.zeros((28, 28, 1), np.uint8)
    image[10:18, 13:15] = 255
    evidence = np.zeros((7, 7), np.float32)
    evidence[0, 0], evidence[6, 6] = 1.0, -1.0
    picture = drawing.overlay(image, evidence).astype(int)
    assert picture.shape == (112, 112, 3)
    assert picture[4, 4, 0] > picture[4, 4, 2] + 50, "red above blue where evidence is for"
    assert picture[108, 108, 2] > picture[108, 108, 0] + 50, "blue above red where it is against"
    assert (picture[56, 56] == 0).all(), "ink stays black"
    assert (picture[4, 108] == 255).all(), "paper without evidence stays white"
