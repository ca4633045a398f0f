"""From images to a measured model in one call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from emberfleet.core.errors import ConfigError
from emberfleet.engine.backend import Backend
from emberfleet.engine.optimizers import Adam
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.loop import TrainConfig
from emberfleet.train.models import ModelChoice
from emberfleet.train.recipes import OPTIMIZERS, RATES, RECIPES, recipe_for
from emberfleet.train.training import choice_for, measure, train_model, with_figures


def stripes(count: int, positions: int | None = None) -> Dataset:
    """28 x 28 images, striped across or down; for a code of two, each half has its own stripes."""
    random = np.random.default_rng(count)
    images = random.integers(0, 60, (count, 28, 28, 1)).astype(np.uint8)
    labels = random.integers(0, 2, (count, positions or 1))
    bright = (np.indices((28, 28)) % 4 < 2) * 180
    for image, row in zip(images, labels, strict=True):
        for place, label in enumerate(row):
            half = np.s_[:, place * 14 : place * 14 + 14] if positions else np.s_[:]
            image[half] += bright[label].astype(np.uint8)[half][..., None]
    return Dataset(images, labels if positions else labels[:, 0], ("across", "down"))


def test_a_trained_model_is_as_good_in_8_bits_as_in_float(numpy_backend: Backend) -> None:
    data = stripes(64)
    config = TrainConfig(epochs=6, quantize_epochs=1, batch=8, optimizer=Adam(), rate=0.01)
    choice = choice_for(data, width=0.25)
    model = train_model("small", choice, data, None, config, numpy_backend, settings={"data": "stripes"})
    measured = measure(model, stripes(48), numpy_backend)
    model = with_figures(model, measured.figures())
    assert model.quantized
    assert model.settings["data"] == "stripes"
    assert model.settings["width"] == 0.25
    assert model.figures["test_accuracy"] == measured.evaluation.accuracy
    assert measured.evaluation.accuracy >= 0.9
    assert abs(model.figures["test_accuracy"] - model.figures["test_float_accuracy"]) <= 0.05


def test_a_code_of_several_characters_trains_and_is_measured(numpy_backend: Backend) -> None:
    data = stripes(32, positions=2)
    config = TrainConfig(epochs=1, quantize_epochs=0, batch=16, optimizer=Adam(), rate=0.01)
    model = train_model("small", choice_for(data, width=0.25), data, None, config, numpy_backend)
    measured = measure(model, data, numpy_backend)
    assert measured.logits.shape == (32, 2, 2)
    assert measured.evaluation.code_accuracy <= measured.evaluation.accuracy
    assert not model.quantized


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("linear", {}),
        ("two_layer", {}),
        ("small", {"width": 0.5, "batch_norm": False, "dropout": 0.1}),
        ("small", {"width": 0.25, "bypass": True}),
    ],
    ids=["linear", "two_layer", "small without batch norm", "small with bypass"],
)
def test_every_kind_of_network_trains_and_runs_in_8_bits(
    name: str, settings: dict[str, Any], numpy_backend: Backend
) -> None:
    data = stripes(64)
    config = TrainConfig(epochs=8, quantize_epochs=1, batch=8, optimizer=Adam(), rate=0.005)
    model = train_model(name, choice_for(data, **settings), data, None, config, numpy_backend)
    measured = measure(model, data, numpy_backend)
    assert measured.evaluation.accuracy >= 0.9
    assert abs(measured.evaluation.accuracy - measured.float_evaluation.accuracy) <= 0.05


def test_images_that_are_not_square_are_refused() -> None:
    wide = Dataset(np.zeros((2, 28, 30, 1), np.uint8), np.zeros(2, np.int64), ("a",))
    with pytest.raises(ConfigError, match="28 x 30"):
        choice_for(wide)


def test_the_choice_follows_the_data() -> None:
    assert choice_for(stripes(2, positions=2)) == ModelChoice(28, 1, 2, positions=2)


def test_every_optimizer_has_a_rate_and_every_other_data_set_the_recipe_of_photos() -> None:
    assert OPTIMIZERS.keys() == RATES.keys()
    assert recipe_for("folder") is recipe_for("zip")
    assert recipe_for("folder") not in RECIPES.values()
