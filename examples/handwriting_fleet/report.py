"""The demo's report: one HTML file with curves, a confusion matrix, pictures and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emberfleet.core.arrays import Int64
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.report.html import Html, paragraph, settings, table
from emberfleet.train.report.page import Figure, Section, columns, render_page, titled
from emberfleet.train.report.pictures import Picture, picture_grid
from emberfleet.train.report.svg import Mark, Series, confusion_matrix, confusions, line_chart

MOST_PICTURES = 48
CURVE_LEAD = (
    "The devices' steps grow over the first rounds and shrink from there on; large ones shake the model "
    "before they pay."
)


@dataclass(frozen=True, slots=True)
class Story:
    """What the pictures are made of.

    Attributes:
        test: Handwriting of people whom nobody trained on.
        before: ``(N,)`` the base model's answer for each image.
        after: ``(N,)`` the fleet's model's.
        confusion: ``(K, K)`` of the fleet's model, rows are the true digits.
    """

    test: Dataset
    before: Int64
    after: Int64
    confusion: Int64


def render(summary: Mapping[str, Any], story: Story) -> str:
    """The page, from the figures of summary.json and the pictures of the story."""
    base, fleet, central = (summary[f"{name}_accuracy"] for name in ("base", "federated", "central"))
    rows = summary["rounds"]
    writers = len(np.unique(story.test.writers)) if story.test.writers is not None else 0
    lead = (
        f"{summary['devices']} devices, each with one person's handwriting, taught one model in "
        f"{len(rows)} rounds. No image left its device. Every figure is over {len(story.test):,} digits "
        f"by {writers} other people, whom nobody trained on, with the 8-bit model as a device runs it."
    )
    gained = (1 - (1 - fleet) / (1 - base)) * 100
    figures = [
        Figure("Base model", f"{base * 100:.2f} %", "trained on 8 people"),
        Figure("The fleet's model", f"{fleet * 100:.2f} %", f"{gained:.0f} % of the mistakes are gone"),
        Figure("All in one place", f"{central * 100:.2f} %", "if everybody gave their images away"),
        Figure("One update", f"{summary['update_bytes'] / 1000:.0f} kB", "encrypted, per device and round"),
        Figure("The .tflite", f"{summary['tflite_bytes'] / 1000:.0f} kB", "8-bit weights"),
        Figure("It all took", _minutes(summary["seconds"]["total"]), "on this machine"),
    ]
    return render_page(
        "A fleet learns to read handwriting",
        lead,
        figures,
        [
            Section("Round by round", [_curve(rows, base, central)], CURVE_LEAD),
            Section("Read now, misread before", [_better(story)], _better_lead(story)),
            Section("Which digit for which", [_confusion(story)]),
            Section("The same model everywhere", [_backends(summary)], _agreement(summary)),
            Section("Rounds", [_rounds(rows)]),
            Section("Where the time went", [settings(_times(summary["seconds"]))]),
        ],
    )


def _curve(rows: Sequence[Mapping[str, Any]], base: float, central: float) -> Html:
    points = [(0.0, base), *((float(row["round"]), row["accuracy"]) for row in rows)]
    marks = [Mark("all in one place", y=central), Mark("base model", y=base)]
    marks += [Mark(f"{row['dropped']} devices lost", x=row["round"]) for row in rows if row["dropped"]]
    return line_chart([Series("fleet", points)], "round", "accuracy", percent=True, marks=marks)


def _better(story: Story) -> Html:
    """Digits that the base model misread and the fleet's model reads, spread over the writers."""
    labels, names = story.test.labels, story.test.classes
    found = np.flatnonzero((story.before != labels) & (story.after == labels))
    if not len(found):
        return paragraph("There is none in this run.")
    chosen = found[np.linspace(0, len(found) - 1, min(MOST_PICTURES, len(found))).astype(int)]
    pictures = [
        Picture(story.test.images[i], names[labels[i]], f"before: {names[story.before[i]]}", "good")
        for i in chosen
    ]
    return picture_grid(pictures)


def _better_lead(story: Story) -> str:
    right, wrong = story.after == story.test.labels, story.before != story.test.labels
    lost = int((~right & ~wrong).sum())
    won = int((right & wrong).sum())
    return f"{won} digits are read now that were misread before; {lost} went the other way."


def _confusion(story: Story) -> Html:
    rows = [
        (true, seen, count, f"{share * 100:.1f} %")
        for true, seen, count, share in confusions(story.confusion, story.test.classes, 10)
    ]
    listed = table(["true", "read as", "times", "of the digit"], rows, numbers_from=2)
    return columns(confusion_matrix(story.confusion, story.test.classes), titled("What is left", listed))


def _backends(summary: Mapping[str, Any]) -> Html:
    rows = [(name, "8 bits", f"{value * 100:.2f} %") for name, value in summary["backends"].items()]
    rows.append(("the same weights", "float", f"{summary['float_accuracy'] * 100:.2f} %"))
    return table(["runs on", "precision", "accuracy"], rows, numbers_from=2)


def _agreement(summary: Mapping[str, Any]) -> str:
    return f"The three backends give the same answer for {summary['agreement'] * 100:.2f} % of the images."


def _rounds(rows: Sequence[Mapping[str, Any]]) -> Html:
    head = ["round", "asked", "accepted", "lost", "accuracy", "seconds"]
    return table(
        head,
        [
            (
                r["round"],
                r["cohort"],
                r["accepted"],
                r["dropped"],
                f"{r['accuracy'] * 100:.2f} %",
                f"{r['seconds']:.1f}",
            )
            for r in rows
        ],
        numbers_from=0,
    )


def _times(seconds: Mapping[str, float]) -> dict[str, object]:
    words = {
        "setup": "reading the data", "train": "training base and reference", "convert": "packing the bundle",
        "compile": "compiling the kernels",
        "fleet": "the fleet's rounds", "total": "all, with measuring",
    }  # fmt: skip
    return {words[name]: _minutes(value) for name, value in seconds.items()}


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes else f"{seconds:.1f} s"
