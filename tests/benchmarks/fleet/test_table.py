from __future__ import annotations

import copy
from typing import Any

import pytest

from benchmarks.fleet.table import BEGIN, END, README, insert, render
from emberfleet.cli.fleet_figures.figures import FIGURES

FOUND: dict[str, Any] = {
    **{figure.name: figure.goal / 2 for figure in FIGURES},
    "update_bytes": 2_343_780,
    "flower": {**{figure.name: figure.goal for figure in FIGURES}, "accuracy_difference": None},
    "setting": {
        "cpu": "a processor",
        "cores": 2,
        "quiet": True,
        "load": [0.1, 0.1, 0.1],
        "python": "3.11.7",
        "date": "2026-11-21T10:00:00+00:00",
        "versions": {"numpy": "2.4.6", "cryptography": "50.0.2", "flwr": "1.41.0", "httpx": "0.28"},
        "unmask_1000": [
            {},
            {"neighbours": 66, "threshold": 23, "seconds": 8.0, "masks": 14700, "peak_mib": 124.2},
        ],
        "average": {"seconds": 0.025, "reading_once_s": 0.02},
        "round": [{"seconds_per_round": 0.6, "server_peak_mib": 90.0, "device_peak_mib": 61.0}],
        "accuracy": {"lost": {"16 bits": 0.03}, "rounds": [{}, {}]},
    },
}
LOAD = {
    "devices": 1000, "neighbours": 66, "gave_up": 50, "values": 2048, "wall_s": 100.0, "requests": 12345,
    "requests_per_s": 123.4, "server_processor_s": 40.0, "server_peak_mib": 200.0, "client_processes": 2,
    "clients_processor_s": 150.0,
    "rows": [{"request": "keys", "count": 1000, "p50_ms": 5.0, "p99_ms": 50.0, "most_ms": 60.0}],
}  # fmt: skip


def test_every_figure_has_a_row_with_goal_and_flower() -> None:
    rows = {line.split(" | ")[0]: line for line in render(FOUND).splitlines()}
    for figure in FIGURES:
        assert rows[f"| {figure.words}"].count("|") == 6
    assert "| 2,343,780 bytes | 2,400,000 bytes | 2,400,000 bytes | 1.0 |" in render(FOUND)
    assert "12 s (extrapolated)" in render(FOUND)


def test_what_flower_has_no_figure_for_stays_empty() -> None:
    (row,) = [line for line in render(FOUND).splitlines() if line.startswith(f"| {FIGURES[-1].words}")]
    assert row.endswith("| 0.05 points | 0.1 points |  |  |")


def test_a_busy_machine_is_said() -> None:
    busy = copy.deepcopy(FOUND)
    busy["setting"] |= {"quiet": False, "load": [7.5, 7.0, 6.0]}
    assert "BUSY: load 7.5" in render(busy)
    assert "BUSY" not in render(FOUND)


def test_the_load_stands_below_where_it_was_measured() -> None:
    assert "12,345 requests, 123 a second" in render({**FOUND, "load": LOAD})
    assert "| keys | 1,000 | 5 | 50 | 60 |" in render({**FOUND, "load": LOAD})


def test_the_readme_has_a_place_for_the_tables_and_writing_twice_changes_nothing() -> None:
    text = README.read_text("utf-8")
    once = insert(text, render(FOUND))
    assert insert(once, render(FOUND)) == once
    assert once.split(BEGIN)[0] == text.split(BEGIN)[0]
    assert once.split(END)[1] == text.split(END)[1]


def test_a_readme_without_a_place_is_refused() -> None:
    with pytest.raises(SystemExit, match="lacks"):
        insert("nothing", "tables")
