"""From a data set to a trained and measured model in one call: what the command line and the demo use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from emberfleet.core.arrays import Float32, Int64
from emberfleet.core.errors import ConfigError
from emberfleet.core.lowering import quantize
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.engine.backend import Backend
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.evaluation import Evaluation, evaluate, top_k_accuracy
from emberfleet.train.initialisation import initial_tensors
from emberfleet.train.loop import PREDICT_BATCH, Observer, TrainConfig, fit, predict
from emberfleet.train.models import ModelChoice, build_model
from emberfleet.train.trained import TrainedModel

TOP = 3
"""How many candidates the second figure allows, where there are more classes."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A model on a data set.

    Attributes:
        logits: ``(N, K)`` or ``(N, P, K)``, from int8 where the model is quantized, else in float.
        labels: Of the data set.
        evaluation: Of these logits.
        float_evaluation: Of the same weights in floating point.
    """

    logits: Float32
    labels: Int64
    evaluation: Evaluation
    float_evaluation: Evaluation

    def figures(self, prefix: str = "test_") -> dict[str, float]:
        """Figures by name, as a `TrainedModel` keeps them."""
        found = {
            f"{prefix}accuracy": self.evaluation.accuracy,
            f"{prefix}code_accuracy": self.evaluation.code_accuracy,
            f"{prefix}loss": self.evaluation.loss,
            f"{prefix}float_accuracy": self.float_evaluation.accuracy,
        }
        if self.logits.shape[-1] > TOP:
            found[f"{prefix}top{TOP}_accuracy"] = top_k_accuracy(self.logits, self.labels, TOP)
        return found


def choice_for(data: Dataset, **settings: Any) -> ModelChoice:
    """The `ModelChoice` that fits a data set; `settings` are its other fields, e.g. ``width``.

    Raises:
        ConfigError: the images are not square.
    """
    height, width, channels = data.images.shape[1:]
    if height != width:
        raise ConfigError(f"images are {height} x {width} pixels; the networks take squares: give a size")
    return ModelChoice(
        size=height,
        channels=channels,
        classes=len(data.classes),
        positions=data.positions or 1,
        **settings,
    )


def train_model(
    model: str,
    choice: ModelChoice,
    train: Dataset,
    validation: Dataset | None,
    config: TrainConfig,
    backend: Backend,
    observers: Sequence[Observer] = (),
    checkpoints: Path | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    memory_limit_bytes: int | None = None,
) -> TrainedModel:
    """Build a network, give it first weights from the seed, and train it.

    Args:
        model: Name in `models.MODELS`.
        choice: What to set about it; `choice_for` makes one that fits the data.
        train: Images to learn from.
        validation: Images held out, or None.
        config: How to train.
        backend: Where.
        observers: See what happens.
        checkpoints: Folder of checkpoints, or None.
        resume: Go on from the folder's checkpoint where there is one.
        settings: What else the model's record shall state, as JSON values.
        memory_limit_bytes: Most memory for values in training; None: no limit.
    """
    graph = build_model(model, choice)
    height, width, channels = graph.input.shape
    preprocessing = Preprocessing(height, width, channels)
    result = fit(
        graph,
        initial_tensors(graph, config.seed, preprocessing),
        preprocessing,
        train,
        validation,
        config,
        backend,
        observers,
        checkpoints,
        resume,
        memory_limit_bytes=memory_limit_bytes,
    )
    described = {
        "model": model,
        **asdict(choice),
        "training images": len(train),
        "validation images": len(validation) if validation is not None else 0,
        "backend": backend.name,
        **config.to_json(),
        **(settings or {}),
    }
    return TrainedModel(graph, result.tensors, preprocessing, train.classes, result.history, described)


def measure(model: TrainedModel, data: Dataset, backend: Backend) -> Measurement:
    """Run a model over a data set: in int8 as a device does where it is quantized, and in float."""
    in_float = predict(backend, model.graph, model.tensors, model.preprocessing, data)
    logits = _integer_logits(model, data, backend) if model.quantized else in_float
    return Measurement(logits, data.labels, evaluate(logits, data.labels), evaluate(in_float, data.labels))


def with_figures(model: TrainedModel, figures: Mapping[str, float]) -> TrainedModel:
    """The same model with more figures on its record."""
    return replace(model, figures={**model.figures, **figures})


def parameter_count(model: TrainedModel) -> int:
    """How many numbers training may change."""
    return sum(math.prod(shape) for shape in model.graph.parameters.values())


def _integer_logits(model: TrainedModel, data: Dataset, backend: Backend) -> Float32:
    predictor = backend.integer_predictor(quantize(model.graph, model.tensors), PREDICT_BATCH)
    pieces = [
        predictor.run(model.preprocessing.apply(data.images[start : start + PREDICT_BATCH]))
        for start in range(0, len(data), PREDICT_BATCH)
    ]
    return np.concatenate(pieces)
