"""The report of a run holds what it must, asks nobody for anything, and trusts no text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from emberfleet.core.graph import Graph
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.evaluation import Mistake, evaluate, worst_mistakes
from emberfleet.train.history import EpochRecord
from emberfleet.train.initialisation import initial_tensors
from emberfleet.train.report.training import (
    confusion_section,
    duration,
    mistakes_grid,
    training_report,
)
from emberfleet.train.trained import TrainedModel

PIXELS = Preprocessing(8, 8, 1)
HISTORY = tuple(
    EpochRecord(n, "float" if n < 3 else "quantized", 0.1 / n, 1 / n, 1.1 / n, 1 - 0.1 / n, 2.0)
    for n in range(1, 5)
)


def page(graph: Graph, classes: tuple[str, ...], name: str = "patterns", right: bool = False) -> str:
    tensors = initial_tensors(graph, 0, PIXELS)
    settings = {"optimizer": "Adam()", "augmentation": {"shift": 2.0, "flip": False}, "note": name}
    model = TrainedModel(graph, tensors, PIXELS, classes, HISTORY, settings)
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 60)
    logits = random.normal(size=(60, 3)).astype(np.float32) + np.eye(3, dtype=np.float32)[labels] * right * 99
    data = Dataset(random.integers(0, 256, (60, 8, 8, 1)).astype(np.uint8), labels, classes)
    return training_report(model, name, data, evaluate(logits, labels), worst_mistakes(logits, labels, 5))


class Reader(HTMLParser):
    """Notes tags and addresses, and that what opens also closes."""

    VOID = ("meta", "img", "line", "rect", "polyline", "circle")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        assert self.open.pop() == tag


def read(document: str) -> Reader:
    reader = Reader()
    reader.feed(document)
    reader.close()
    assert reader.open == []
    return reader


def test_report_shows_curves_matrix_mistakes_epochs_and_settings(tiny_graph: Graph) -> None:
    document = page(tiny_graph, ("across", "down", "dots"))
    reader = read(document)
    assert reader.tags.count("svg") == 3
    assert reader.tags.count("img") == 5
    for words in ("Loss", "Accuracy", "8 bits from here", "97.50 %", "Most frequent mistakes", "Adam()"):
        assert words in document
    assert "augmentation shift" in document
    assert "augmentation flip" not in document


def test_report_asks_nobody_for_anything(tiny_graph: Graph) -> None:
    document = page(tiny_graph, ("across", "down", "dots"))
    reader = read(document)
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)
    assert "script" not in reader.tags
    assert not re.search(r"url\(|@import|https?:", document)
    assert "default-src &#x27;none&#x27;" in document


def test_names_from_outside_are_text_in_the_report(tiny_graph: Graph) -> None:
    hostile = '<img src=x onerror="alert(1)">'
    document = page(tiny_graph, (hostile, "down", "dots"), name=hostile)
    assert "<img src=x" not in document
    assert read(document).tags.count("img") == 5
    assert "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;" in document


def test_a_perfect_model_has_no_mistakes_to_show(tiny_graph: Graph) -> None:
    document = page(tiny_graph, ("across", "down", "dots"), right=True)
    assert document.count("No mistakes at all.") == 2
    assert read(document).tags.count("img") == 0


@pytest.mark.parametrize(("seconds", "words"), [(3.14, "3.1 s"), (245.4, "4 min 05 s"), (3720, "1 h 02 min")])
def test_durations_read_like_speech(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_many_classes_are_listed_by_their_confusions_instead_of_a_matrix() -> None:
    labels = np.arange(50)
    logits = np.eye(50, dtype=np.float32)
    logits[7] = np.eye(50)[8]
    section = confusion_section(evaluate(logits, labels), [f"class {n}" for n in range(50)])
    assert "<svg" not in section
    assert ">class 7<" in section
    assert ">class 8<" in section
    assert ">class 9<" not in section


def test_a_mistake_in_a_code_names_its_position() -> None:
    data = Dataset(np.zeros((1, 4, 4, 1), np.uint8), np.array([[0, 1]]), ("a", "b"))
    grid = mistakes_grid(data, [Mistake(0, 1, 1, 0, 0.75)])
    assert "b \u2192 a" in grid
    assert "position 2, 75 % sure" in grid
