"""Our .tflite files stay at most 3 % larger than those of TensorFlow's converter."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from benchmarks.tflite_sizes.compare import FORMS, NETWORKS, our_files, sizes, some_tensors
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D, GlobalAveragePool, Input, Relu
from tests.core.networks import random_tensors

README = Path(__file__).resolve().parents[2] / "benchmarks" / "README.md"
ROW = re.compile(r"^\| ([^|]+) \| (\w+) \| ([\d,]+) \| ([\d,]+) \| [\d.]+ \|$", re.MULTILINE)
ALLOWED = 1.03


def stated() -> dict[str, dict[str, tuple[int, int]]]:
    """By network and form, our bytes and TensorFlow's as the table has them."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    _, _, section = README.read_text("utf-8").partition("## Size of .tflite files")
    for network, form, ours, theirs in ROW.findall(section.partition("\n## ")[0]):
        found.setdefault(network, {})[form] = int(ours.replace(",", "")), int(theirs.replace(",", ""))
    return found


def test_the_table_has_every_network_and_form_and_none_is_larger() -> None:
    table = stated()
    assert {name: tuple(forms) for name, forms in table.items()} == dict.fromkeys(NETWORKS, FORMS)
    for forms in table.values():
        assert all(ours <= ALLOWED * theirs for ours, theirs in forms.values())


@pytest.mark.parametrize("name", ["sq32", "MobileNet 0.25, 96 x 96", "ResNet 14, 32 x 32"])
def test_the_writers_still_make_files_of_the_stated_sizes(name: str) -> None:
    graph = NETWORKS[name]()
    files = our_files(graph, {**random_tensors(graph), **some_tensors(graph)})
    for form, (ours, theirs) in stated()[name].items():
        assert len(files[form]) <= ALLOWED * theirs
        assert len(files[form]) == pytest.approx(ours, rel=0.01)


def test_tensorflow_s_converter_is_measured_on_the_same_network() -> None:
    python = os.environ.get("EMBERFLEET_TENSORFLOW_PYTHON")
    if not python:
        pytest.skip("EMBERFLEET_TENSORFLOW_PYTHON does not name a Python that has TensorFlow")
    graph = Graph(
        (
            Input("input", (), (8, 8, 3)),
            Conv2D("conv", ("input",), 64, (3, 3), (2, 2), (1, 1, 1, 1)),
            Relu("relu", ("conv",)),
            GlobalAveragePool("mean", ("relu",)),
        )
    )
    ours, theirs = sizes(graph, python)
    assert set(ours) == set(theirs) == set(FORMS)
    assert all(1700 < theirs[form] < 16_000 for form in FORMS)
