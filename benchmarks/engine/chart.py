"""The ratios of ``engine.json`` as bars: a picture that stands alone and follows the reader's theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.engine.works import WORKS
from emberfleet.train.report.html import Html, element, empty, text
from emberfleet.train.report.svg import ticks

LABELS, PANEL, GAP, RIGHT = 236.0, 250.0, 46.0, 26.0
TOP, ROW, HEADING, BOTTOM = 88.0, 19.0, 32.0, 64.0
BAR = 12.0
LONGEST = 5.0
"""Ratios above are cut, and marked: one peer that fails at something would flatten all the rest."""
VALUE_ROOM = 46.0
"""Beside the longest bar, for its figure."""
STYLE = """
text { font: 12.5px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1b2330; }
.title { font-size: 16px; font-weight: 600; } .work { font-weight: 600; } .quiet { fill: #5d6778; }
.paper { fill: #ffffff; } .rule { stroke: #e5e8ee; } .one { stroke: #1b2330; stroke-width: 1.4; }
.ahead { fill: #2458c5; } .behind { fill: #d4600a; } .half { fill-opacity: 0.5; }
.value { paint-order: stroke; stroke: #ffffff; stroke-width: 4px; }
@media (prefers-color-scheme: dark) {
  text { fill: #e8ecf3; } .quiet { fill: #9aa5b8; } .paper { fill: #1a2029; } .rule { stroke: #2b3442; }
  .value { stroke: #1a2029; } .one { stroke: #e8ecf3; } .ahead { fill: #7aa7ff; } .behind { fill: #ff9a52; }
}
"""

Row = Mapping[str, Any]


def draw(rows: Sequence[Row]) -> str:
    """One group of bars for each work, one bar for each peer, one panel for each number of threads."""
    kept = [row for row in rows if row["peer"]]
    panels = sorted({row["threads"] for row in kept})
    groups = {work: _lines(kept, work) for work in WORKS}
    groups = {work: lines for work, lines in groups.items() if lines}
    top_ratio = max([1.0, *(min(row["ratio"], LONGEST) for row in kept)])
    marks = [tick for tick in ticks(0.0, top_ratio, 5) if tick <= top_ratio]
    scale = (PANEL - VALUE_ROOM) / top_ratio
    lefts = {threads: LABELS + index * (PANEL + GAP) for index, threads in enumerate(panels)}
    width = LABELS + len(panels) * (PANEL + GAP) - GAP + RIGHT
    height = TOP + sum(HEADING + ROW * len(lines) for lines in groups.values()) + BOTTOM
    parts = [
        element("style", Html(STYLE)),
        empty("rect", width=width, height=height, rx=10, class_="paper"),
        _label("Our engine: how many times as fast as each peer", 20, 30, "title"),
        _label("the peer's milliseconds by ours; beyond the line at 1 ours is faster", 20, 50, "quiet"),
    ]
    bottom = height - BOTTOM
    for threads, left in lefts.items():
        name = "1 thread" if threads == 1 else f"{threads} threads"
        parts.append(_label(name, left, TOP - 12, "work"))
        for mark in marks:
            x = left + mark * scale
            kind = "one" if mark == 1.0 else "rule"
            parts.append(empty("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=TOP, y2=bottom, class_=kind))
            parts.append(_label(f"{mark:g}", x, bottom + 17, "quiet", "middle"))
        if 1.0 not in marks:
            x = left + scale
            parts.append(empty("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=TOP, y2=bottom, class_="one"))
    parts += _legend(height - 18)
    y = TOP
    for work, lines in groups.items():
        parts.append(_label(work, 20, y + 21, "work"))
        y += HEADING
        for (peer, backend), found in lines.items():
            label = peer if backend == "opencl" else f"{peer}, ours on {backend}"
            parts.append(_label(label, LABELS - 10, y + 10, "quiet", "end"))
            for row in found:
                parts += _bar(row, lefts[row["threads"]], y, scale)
            y += ROW
    return str(
        element(
            "svg", *parts, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width:g} {height:g}",
            width=f"{width:g}", role="img", aria_label="speed of our engine as a multiple of each peer's",
        )
    )  # fmt: skip


def _lines(rows: Sequence[Row], work: str) -> dict[tuple[str, str], list[Row]]:
    """By peer and our backend: a row for each number of threads."""
    lines: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["work"] == work:
            lines.setdefault((row["peer"], row["backend"]), []).append(row)
    return lines


def _bar(row: Row, left: float, y: float, scale: float) -> list[Html]:
    ratio = row["ratio"]
    kind = "ahead" if ratio >= 1 else "behind"
    other = row["precision"] != WORKS[row["work"]].precision
    words = f"{row['work']}, {row['peer']}: {row['peer_ms']:.4g} ms, ours {row['ours_ms']:.4g} ms"
    long = min(ratio, LONGEST) * scale
    figure = f"{ratio:.2f}" if ratio <= LONGEST else f"\u25b8 {ratio:.3g}"
    return [
        element(
            "rect", element("title", text(words)), x=f"{left:.1f}", y=f"{y:.1f}", width=f"{long:.1f}",
            height=BAR, rx=2, class_=f"{kind} half" if other else kind,
        ),
        _label(figure, left + long + 6, y + 10, "value"),
    ]  # fmt: skip


def _legend(y: float) -> list[Html]:
    entries = (
        ("ahead", "ours is faster"),
        ("behind", "the peer is faster"),
        ("ahead half", "peer in bf16"),
    )
    parts: list[Html] = []
    x = LABELS
    for kind, words in entries:
        parts.append(empty("rect", x=x, y=y - 10, width=12, height=BAR, rx=2, class_=kind))
        parts.append(_label(words, x + 18, y, "quiet"))
        x += 30 + 6.6 * len(words) + 14
    return parts


def _label(words: str, x: float, y: float, kind: str, anchor: str = "start") -> Html:
    return element("text", text(words), x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=kind)
