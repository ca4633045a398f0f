"""What the demo measures: every published model on the writers whom nobody trained on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from report import Story

from emberfleet.core.bundle import TFLITE_PART, Bundle
from emberfleet.core.signing import VerifyKey
from emberfleet.runtime.runtime import Runtime
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.evaluation import Evaluation, evaluate

BACKENDS = ("numpy", "opencl", "litert")


@dataclass(frozen=True, slots=True)
class Models:
    """Bundles to measure: the base, the reference, and what was published after each round."""

    base: Path
    central: Path
    published: Sequence[Path]


def measure(
    models: Models, trusted: Collection[VerifyKey], test: Dataset, engine: str
) -> tuple[dict[str, Any], Story]:
    """Accuracies in int8 as a device runs it, sizes, and what the report's pictures need.

    Args:
        models: What is measured.
        trusted: Keys that may have signed them.
        test: Images of people whom nobody trained on.
        engine: Backend for the figure in floating point.
    """

    def measured(path: Path) -> Evaluation:
        return Runtime.open(path, trusted).evaluate(test)

    by_path = {path: measured(path) for path in dict.fromkeys(models.published)}
    final = models.published[-1]
    logits = {name: Runtime.open(final, trusted, name).logits(test.images) for name in BACKENDS}
    answers = np.stack([values.argmax(-1) for values in logits.values()])
    accuracy = {name: evaluate(values, test.labels).accuracy for name, values in logits.items()}
    in_float = Runtime.open(final, trusted, engine, precision="float").evaluate(test)
    before = Runtime.open(models.base, trusted).logits(test.images)
    figures = {
        "base_accuracy": evaluate(before, test.labels).accuracy,
        "federated_accuracy": by_path[final].accuracy,
        "central_accuracy": measured(models.central).accuracy,
        "float_accuracy": in_float.accuracy,
        "int8_accuracy": accuracy["numpy"],
        "backends": accuracy,
        "agreement": float((answers == answers[0]).all(axis=0).mean()),
        "tflite_bytes": len(Bundle.open(final, trusted).part(TFLITE_PART)),
        "bundle_bytes": final.stat().st_size,
        "test_images": len(test),
        "by_round": [by_path[path].accuracy for path in models.published],
    }
    story = Story(test, before.argmax(-1), logits["litert"].argmax(-1), by_path[final].confusion)
    return figures, story
