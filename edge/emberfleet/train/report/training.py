"""The report of one training run: curves, confusion matrix, worst mistakes, settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from emberfleet.train.data.dataset import Dataset
from emberfleet.train.evaluation import Evaluation, Mistake
from emberfleet.train.history import EpochRecord
from emberfleet.train.report.html import Html, paragraph, settings, table
from emberfleet.train.report.page import Figure, Section, columns, render_page, titled
from emberfleet.train.report.pictures import Picture, picture_grid
from emberfleet.train.report.svg import (
    MAX_MATRIX_CLASSES,
    Mark,
    Series,
    confusion_matrix,
    confusions,
    line_chart,
)
from emberfleet.train.trained import TrainedModel


def training_report(
    model: TrainedModel, name: str, test: Dataset, evaluation: Evaluation, mistakes: Sequence[Mistake]
) -> str:
    """A page about a trained model.

    Args:
        model: With its history, settings and figures.
        name: What it was trained on, for the heading.
        test: The images that `evaluation` and `mistakes` are about.
        evaluation: On `test`.
        mistakes: Worst first; as many as the page shall show.
    """
    images = f"{len(test):,} test images"
    sections = [
        Section("Learning", [learning_curves(model.history)], _lead_of(model.history)),
        Section("Which class for which", [confusion_section(evaluation, model.classes)], f"Over {images}."),
        Section("The worst mistakes", [mistakes_grid(test, mistakes)], _MISTAKES_LEAD),
        Section("Epochs", [history_table(model.history)]),
        Section("Settings", [settings(_flat(model.settings))]),
    ]
    kind = "in 8 bits" if model.quantized else "in floating point"
    return render_page(
        f"Trained on {name}",
        f"A network of {_parameters(model):,} parameters, {kind}, tested on {len(test):,} images.",
        _figures(model, evaluation, images),
        sections,
    )


def learning_curves(history: Sequence[EpochRecord]) -> Html:
    """Loss and validation accuracy by epoch, side by side; a mark where quantization begins."""
    marks = quantization_mark(history)
    losses = [
        Series("training", [(r.epoch, r.loss) for r in history]),
        Series("validation", _known([(r.epoch, r.validation_loss) for r in history]), colour=1),
    ]
    accuracy = [
        Series("validation", _known([(r.epoch, r.validation_accuracy) for r in history]), colour=1),
    ]
    parts = [titled("Loss", line_chart(losses, "epoch", "cross-entropy", marks=marks))]
    if accuracy[0].points:
        chart = line_chart(accuracy, "epoch", "accuracy", percent=True, marks=marks)
        parts.append(titled("Accuracy", chart))
    return columns(*parts)


def quantization_mark(history: Sequence[EpochRecord]) -> list[Mark]:
    """A vertical line between the floating-point and the quantized epochs, where a run has both."""
    before = [r.epoch for r in history if r.phase == "float"]
    after = [r.epoch for r in history if r.phase == "quantized"]
    return [Mark("8 bits from here", x=before[-1] + 0.5)] if before and after else []


def confusion_section(evaluation: Evaluation, classes: Sequence[str]) -> Html:
    """The matrix beside the most frequent confusions; the list alone where classes are many."""
    rows = [
        (true, predicted, count, f"{share * 100:.1f} %")
        for true, predicted, count, share in confusions(evaluation.confusion, classes, 12)
    ]
    if not rows:
        listed = paragraph("No mistakes at all.")
    else:
        listed = table(["true", "predicted", "times", "of the class"], rows, numbers_from=2)
    if len(classes) > MAX_MATRIX_CLASSES:
        return listed
    return columns(confusion_matrix(evaluation.confusion, classes), titled("Most frequent mistakes", listed))


def mistakes_grid(data: Dataset, mistakes: Sequence[Mistake]) -> Html:
    """Images with the right class and, below, what the network saw instead and how sure it was."""
    if not mistakes:
        return paragraph("No mistakes at all.")
    several = data.positions is not None
    pictures = [
        Picture(
            data.images[m.index],
            f"{data.classes[m.true]} \u2192 {data.classes[m.predicted]}",
            (f"position {m.position + 1}, " if several else "") + f"{m.confidence * 100:.0f} % sure",
            "bad",
        )
        for m in mistakes
    ]
    return picture_grid(pictures)


def history_table(history: Sequence[EpochRecord]) -> Html:
    """Every epoch in figures."""
    head = ["epoch", "phase", "rate", "loss", "validation loss", "validation accuracy", "seconds"]
    rows = [
        (
            r.epoch,
            r.phase,
            f"{r.rate:.2e}",
            f"{r.loss:.4f}",
            "" if r.validation_loss is None else f"{r.validation_loss:.4f}",
            "" if r.validation_accuracy is None else f"{r.validation_accuracy * 100:.2f} %",
            f"{r.seconds:.1f}",
        )
        for r in history
    ]
    return table(head, rows, numbers_from=2)


_MISTAKES_LEAD = "Wrong answers that the network was most certain of: true class \u2192 answer."


def _figures(model: TrainedModel, evaluation: Evaluation, images: str) -> list[Figure]:
    found = [Figure("Accuracy", f"{evaluation.accuracy * 100:.2f} %", f"on {images}")]
    if model.graph.positions > 1:
        found.append(Figure("Whole codes", f"{evaluation.code_accuracy * 100:.2f} %", "every position right"))
    errors = int(evaluation.confusion.sum() - evaluation.confusion.trace())
    found.append(Figure("Mistakes", f"{errors:,}", f"of {int(evaluation.confusion.sum()):,} answers"))
    found.append(Figure("Parameters", f"{_parameters(model):,}", "numbers learnt"))
    seconds = sum(r.seconds for r in model.history)
    found.append(Figure("Training", duration(seconds), f"{len(model.history)} epochs"))
    return found


def duration(seconds: float) -> str:
    """``12.3 s``, ``4 min 05 s`` or ``1 h 02 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _parameters(model: TrainedModel) -> int:
    return sum(math.prod(shape) for shape in model.graph.parameters.values())


def _lead_of(history: Sequence[EpochRecord]) -> str:
    known = [r for r in history if r.validation_accuracy is not None]
    if not known:
        return "Nothing was held out, so there is no validation curve."
    best = max(known, key=lambda r: (r.validation_accuracy or 0.0, r.epoch))
    share = (best.validation_accuracy or 0.0) * 100
    return f"Best validation accuracy: {share:.2f} %, in epoch {best.epoch} of {len(history)}."


def _known(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if y is not None]


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings as one level, ``augmentation shift``; what is off or unset is left out."""
    found: dict[str, object] = {}
    for name, value in values.items():
        words = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{words} "))
        elif value not in (None, "", 0, 0.0, False):
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            found[words] = "yes" if shown is True else shown
    return found
