"""Charts as inline SVG: lines with axes and a legend, and confusion matrices.

Colours are CSS variables of `page`, so that a chart follows the reader's light or dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from emberfleet.core.arrays import Int64
from emberfleet.core.errors import ShapeError
from emberfleet.train.report.html import Html, element, empty, join, text

WIDTH, HEIGHT = 640.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 24.0, 44.0
COLOURS = 6
"""Colours that `page` defines; a seventh line takes the first again."""
MAX_MATRIX_CLASSES = 40


@dataclass(frozen=True, slots=True)
class Series:
    """One line: a name and its points, in order of x; points that are not finite are left out.

    Without a `colour` (0 to 5) a line takes the number of its place; a line that appears in two
    charts should name its own.
    """

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    colour: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A labelled line across the chart: vertical at x, or horizontal at y."""

    name: str
    x: float | None = None
    y: float | None = None


def line_chart(
    series: Sequence[Series], x_label: str, y_label: str, percent: bool = False, marks: Sequence[Mark] = ()
) -> Html:
    """Lines over one x axis, a legend with each line's last value above.

    Args:
        series: Lines to draw; those without a finite point are left out.
        x_label: What x counts.
        y_label: What y measures.
        percent: y is a share in [0, 1], written as per cent.
        marks: Labelled lines across.
    """
    kept = [
        Series(s.name, _finite(s.points), s.dashed, (n if s.colour is None else s.colour) % COLOURS)
        for n, s in enumerate(series)
    ]
    kept = [s for s in kept if s.points]
    if not kept:
        return element("p", text("No points to draw."), class_="quiet")
    xs = [x for s in kept for x, _ in s.points] + [m.x for m in marks if m.x is not None]
    ys = [y for s in kept for _, y in s.points] + [m.y for m in marks if m.y is not None]
    x_ticks = ticks(min(xs), max(xs), 8, whole=True)
    y_ticks = ticks(min(ys), max(ys), 6)
    if percent:
        y_ticks = [t for t in y_ticks if t <= 1.0 + 1e-9]
    x_span = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 0.5, max(xs) + 0.5)
    y_span = (min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys)))
    scale = _Scale(x_span, y_span)
    drawing = [
        *_axes(scale, x_ticks, y_ticks, x_label, y_label, percent),
        *(_mark(scale, mark) for mark in marks),
        *(_line(scale, s, percent) for s in kept),
    ]
    legend = [
        element(
            "span", element("i", class_=f"c{s.colour}" + (" dashed" if s.dashed else "")),
            text(s.name), element("b", text(_value(s.points[-1][1], percent))),
        )
        for s in kept
    ]  # fmt: skip
    chart = element(
        "svg", *drawing, viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", role="img", class_="chart",
        aria_label=f"{y_label} by {x_label}",
    )  # fmt: skip
    return element("div", element("div", *legend, class_="legend"), chart, class_="plot")


def confusion_matrix(counts: Int64, classes: Sequence[str]) -> Html:
    """True classes down, predicted ones across; right answers blue, wrong ones orange.

    Args:
        counts: ``(K, K)``, row the true class; K at most `MAX_MATRIX_CLASSES` (beyond that a
            matrix cannot be read: list the most frequent confusions with `confusions` instead).
        classes: K names.
    """
    k = len(classes)
    if counts.shape != (k, k) or not 0 < k <= MAX_MATRIX_CLASSES:
        raise ShapeError(f"confusion matrix is {counts.shape} for {k} classes; expected (K, K), K at most 40")
    cell = 44.0 if k <= 12 else 26.0
    shorter = [name if len(name) <= 12 else name[:11] + "\u2026" for name in classes]
    margin = 30.0 + 7.0 * max(len(name) for name in shorter)
    slanted = max(len(name) for name in shorter) > 3
    top = margin if slanted else 46.0
    parts = [_label("predicted", margin + k * cell / 2, 14, "middle", "axis")]
    parts.append(_label("true", 12, top + k * cell / 2, "middle", "axis", turned=-90))
    for i, name in enumerate(shorter):
        middle = (i + 0.5) * cell
        parts.append(_label(name, margin - 8, top + middle + 4, "end", "tick"))
        x = margin + middle + (4 if slanted else 0)
        parts.append(
            _label(name, x, top - 8, "start" if slanted else "middle", "tick", turned=-55 if slanted else 0)
        )
    for row in range(k):
        total = max(int(counts[row].sum()), 1)
        for column in range(k):
            count = int(counts[row, column])
            share = count / total
            parts.append(
                _cell(
                    margin + column * cell, top + row * cell, cell, count, share, row == column,
                    f"true {classes[row]}, predicted {classes[column]}: {count} of {total}",
                )
            )  # fmt: skip
    side = margin + k * cell + (30.0 if slanted else 4.0)
    height = top + k * cell + 4
    return element(
        "svg", *parts, viewBox=f"0 0 {side:g} {height:g}", role="img", class_="matrix",
        style=f"max-width:{side:g}px", aria_label="confusion matrix",
    )  # fmt: skip


def confusions(counts: Int64, classes: Sequence[str], limit: int) -> list[tuple[str, str, int, float]]:
    """The most frequent mistakes: true class, predicted class, how often, share of the true class."""
    wrong = [
        (int(counts[i, j]), i, j)
        for i, j in zip(*counts.nonzero(), strict=True)
        if i != j
    ]  # fmt: skip
    wrong.sort(key=lambda entry: (-entry[0], entry[1], entry[2]))
    return [(classes[i], classes[j], n, n / int(counts[i].sum())) for n, i, j in wrong[:limit]]


def ticks(low: float, high: float, wanted: int, whole: bool = False) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that cover ``[low, high]``."""
    if high - low < 1e-12:
        pad = max(abs(low) * 0.05, 0.5 if whole else 0.01)
        low, high = low - pad, high + pad
    raw = (high - low) / max(wanted - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
    if whole:
        step = max(step, 1.0)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    else:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class _Scale:
    x_span: tuple[float, float]
    y_span: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.x_span
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_span
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _axes(
    scale: _Scale,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_label: str,
    y_label: str,
    percent: bool,
) -> list[Html]:
    bottom = HEIGHT - BOTTOM
    parts: list[Html] = []
    digits = _tick_digits(y_ticks, percent)
    for tick in y_ticks:
        y = scale.y(tick)
        parts.append(empty("line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="rule"))
        words = f"{tick * 100:.{digits}f} %" if percent else f"{tick:.{digits}f}"
        parts.append(_label(words, LEFT - 8, y + 4, "end", "tick"))
    for tick in x_ticks:
        parts.append(_label(f"{tick:g}", scale.x(tick), bottom + 17, "middle", "tick"))
    parts.append(empty("line", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, class_="base"))
    parts.append(_label(x_label, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "middle", "axis"))
    parts.append(_label(y_label, 12, (TOP + bottom) / 2, "middle", "axis", turned=-90))
    return parts


def _line(scale: _Scale, series: Series, percent: bool) -> Html:
    places = [(scale.x(x), scale.y(y)) for x, y in series.points]
    colour = f"c{series.colour}"
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [empty("polyline", points=path, class_=f"line {colour}" + (" dashed" if series.dashed else ""))]
    for (x, y), (px, py) in zip(places, series.points, strict=True):
        hint = element("title", text(f"{series.name}, {px:g}: {_value(py, percent)}"))
        parts.append(element("circle", hint, cx=f"{x:.1f}", cy=f"{y:.1f}", r=2.6, class_=f"dot {colour}"))
    return join(parts)


def _mark(scale: _Scale, mark: Mark) -> Html:
    if mark.x is not None:
        x = scale.x(mark.x)
        line = empty("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=TOP, y2=HEIGHT - BOTTOM, class_="mark")
        place = min(max(x, LEFT + 3.2 * len(mark.name)), WIDTH - RIGHT - 3.2 * len(mark.name))
        return join([line, _label(mark.name, place, TOP - 9, "middle", "tick")])
    assert mark.y is not None
    y = scale.y(mark.y)
    line = empty("line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="mark")
    below = y < TOP + 20
    return join([line, _label(mark.name, WIDTH - RIGHT - 4, y + 14 if below else y - 6, "end", "tick")])


def _label(words: str, x: float, y: float, anchor: str, kind: str, turned: float = 0) -> Html:
    turn = {"transform": f"rotate({turned:g} {x:.1f} {y:.1f})"} if turned else {}
    return element("text", text(words), x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=kind, **turn)


def _cell(x: float, y: float, size: float, count: int, share: float, right: bool, hint: str) -> Html:
    # A wrong cell of a few per cent must be visible, so its colour grows with the square root.
    strength = share if right else math.sqrt(share)
    shade = "right" if right else "wrong"
    box = element(
        "rect", element("title", text(hint)), x=f"{x + 1:.1f}", y=f"{y + 1:.1f}", width=size - 2,
        height=size - 2, rx=4, class_="cell",
    )  # fmt: skip
    if not count:
        return box
    fill = element(
        "rect", element("title", text(hint)), x=f"{x + 1:.1f}", y=f"{y + 1:.1f}", width=size - 2,
        height=size - 2, rx=4, class_=shade, fill_opacity=f"{0.12 + 0.88 * strength:.3f}",
    )  # fmt: skip
    ink = "ink strong" if 0.12 + 0.88 * strength > 0.55 else "ink"
    words = str(count) if count < 100000 else f"{count / 1000:.0f}k"
    return join([box, fill, _label(words, x + size / 2, y + size / 2 + 4, "middle", ink)])


def _value(value: float, percent: bool) -> str:
    return f"{value * 100:.2f} %" if percent else f"{value:.3g}"


def _tick_digits(values: Sequence[float], percent: bool) -> int:
    """Decimals needed to tell neighbouring ticks apart."""
    gap = min((b - a for a, b in pairwise(values)), default=1.0) * (100 if percent else 1)
    return max(0, -math.floor(math.log10(gap) + 1e-9))
