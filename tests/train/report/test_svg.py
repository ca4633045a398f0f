"""Charts put points where they belong and names where they can do no harm."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from emberfleet.core.errors import ShapeError
from emberfleet.train.report.svg import Mark, Series, confusion_matrix, confusions, line_chart, ticks

HOSTILE = '<script>alert("1")</script>&\''


def parse(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(markup)


@pytest.mark.parametrize(
    ("low", "high", "wanted", "expected"),
    [
        (0.0, 1.0, 6, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.912, 0.994, 5, [0.9, 0.95, 1.0]),
        (-3.0, 8.0, 4, [-5.0, 0.0, 5.0, 10.0]),
    ],
)
def test_ticks_are_round_and_cover_the_values(
    low: float, high: float, wanted: int, expected: list[float]
) -> None:
    assert ticks(low, high, wanted) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 0.5, -2.0, 1e-9, 1e9])
def test_ticks_around_a_single_value_exist(value: float) -> None:
    found = ticks(value, value, 5)
    assert found[0] <= value <= found[-1]
    assert len(found) < 20


def test_whole_ticks_stay_inside_and_whole() -> None:
    assert ticks(1, 15, 8, whole=True) == [2, 4, 6, 8, 10, 12, 14]
    assert ticks(1, 2, 8, whole=True) == [1, 2]


def test_a_line_goes_from_corner_to_corner_of_its_range() -> None:
    root = parse(line_chart([Series("loss", [(1, 0.0), (3, 1.0)])], "epoch", "loss"))
    line = root.find(".//polyline")
    assert line is not None
    (x0, y0), (x1, y1) = (tuple(map(float, p.split(","))) for p in line.get("points", "").split())
    assert (x0, x1) == (58.0, 626.0)
    assert (y0, y1) == (256.0, 24.0)


def test_values_that_are_not_finite_are_left_out() -> None:
    points = [(1, 0.5), (2, float("nan")), (3, float("inf")), (4, 0.25)]
    root = parse(line_chart([Series("loss", points)], "epoch", "loss"))
    assert len(root.findall(".//circle")) == 2


def test_a_chart_without_points_says_so() -> None:
    assert "No points" in line_chart([Series("loss", [])], "epoch", "loss")


def test_shares_are_written_as_per_cent_with_the_last_value_in_the_legend() -> None:
    chart = line_chart([Series("test", [(1, 0.9), (2, 0.9934)])], "epoch", "accuracy", percent=True)
    assert "99.34 %" in chart
    assert max(map(float, re.findall(r">(\d+) %<", chart))) == 100.0


def test_a_line_keeps_the_colour_it_names() -> None:
    chart = line_chart([Series("a", [(1, 1)]), Series("b", [(1, 2)], colour=4)], "x", "y")
    assert "line c0" in chart
    assert "line c4" in chart


def test_names_are_escaped_everywhere_in_charts() -> None:
    series, mark = Series(HOSTILE, [(1, 1.0), (2, 2.0)]), Mark(HOSTILE, x=1.5)
    level = Mark(HOSTILE, y=1.5)
    chart = line_chart([series], HOSTILE, HOSTILE, marks=[mark, level])
    matrix = confusion_matrix(np.eye(2, dtype=np.int64), [HOSTILE, "b"])
    for markup in (chart, matrix):
        assert "<script" not in markup
        parse(markup)


def test_confusion_matrix_shows_each_count_once_with_its_hint() -> None:
    counts = np.array([[7, 3], [0, 10]])
    matrix = confusion_matrix(counts, ["cat", "dog"])
    root = parse(matrix)
    assert [t.text for t in root.findall("text") if t.get("class", "").startswith("ink")] == ["7", "3", "10"]
    assert "true cat, predicted dog: 3 of 10" in matrix


def test_a_matrix_of_another_shape_is_refused() -> None:
    with pytest.raises(ShapeError):
        confusion_matrix(np.eye(3, dtype=np.int64), ["a", "b"])


def test_confusions_come_by_frequency_with_their_share_of_the_class() -> None:
    counts = np.array([[8, 2, 0], [0, 5, 5], [1, 0, 9]])
    assert confusions(counts, "abc", 2) == [("b", "c", 5, 0.5), ("a", "b", 2, 0.2)]
