from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.engine.results import keep_rows, keep_section, load

MACHINE = {"date": "2026-11-21T10:00:00+00:00", "quiet": True, "cores": 2}


def found(work: str, ms: float, peer: str | None = "torch", threads: int = 1) -> dict[str, Any]:
    row = {"work": work, "threads": threads, "ours_ms": ms, "peer": peer}
    return {"rows": [row], "skipped": [], "versions": {"torch": "1"} if peer else {}}


def times(folder: Path) -> dict[tuple[str, int], float]:
    return {(row["work"], row["threads"]): row["ours_ms"] for row in load(folder)["rows"]}


def test_a_work_measured_again_takes_the_place_of_its_older_rows(tmp_path: Path) -> None:
    keep_rows(tmp_path, MACHINE, False, found("train small", 1.0))
    keep_rows(tmp_path, MACHINE, False, found("train small", 2.0, threads=2))
    keep_rows(tmp_path, MACHINE, False, found("train sq32", 3.0))
    keep_rows(tmp_path, MACHINE, False, found("train small", 4.0))
    assert times(tmp_path) == {("train small", 1): 4.0, ("train small", 2): 2.0, ("train sq32", 1): 3.0}


def test_a_row_says_when_it_was_measured_and_whether_it_was_quiet(tmp_path: Path) -> None:
    keep_rows(tmp_path, MACHINE, False, found("train small", 1.0))
    keep_rows(tmp_path, {**MACHINE, "quiet": False}, False, found("train sq32", 1.0))
    assert [row["quiet"] for row in load(tmp_path)["rows"]] == [True, False]


def test_our_rows_alone_do_not_replace_those_with_a_peer(tmp_path: Path) -> None:
    assert keep_rows(tmp_path, MACHINE, False, found("train small", 1.0))
    assert not keep_rows(tmp_path, MACHINE, False, found("train small", 2.0, peer=None))
    assert keep_rows(tmp_path, MACHINE, False, found("train sq32", 3.0, peer=None))
    assert keep_rows(tmp_path, MACHINE, False, found("train sq32", 4.0))
    assert times(tmp_path) == {("train small", 1): 1.0, ("train sq32", 1): 4.0}


def test_quick_figures_never_stand_beside_real_ones(tmp_path: Path) -> None:
    keep_rows(tmp_path, MACHINE, True, found("train small", 1.0))
    keep_section(tmp_path, "memory", MACHINE, False, {"arenas": []})
    assert load(tmp_path) | {"machine": {}} == {
        "rows": [], "skipped": [], "versions": {}, "machine": {}, "quick": False, "memory": {"arenas": []},
    }  # fmt: skip


def test_a_work_that_is_now_skipped_loses_its_older_rows(tmp_path: Path) -> None:
    keep_rows(tmp_path, MACHINE, False, found("train small", 1.0, peer=None))
    skipped = [{"work": "train small", "threads": 1, "peer": "ours on opencl", "reason": "no device"}]
    keep_rows(tmp_path, MACHINE, False, {"rows": [], "skipped": skipped, "versions": {}})
    assert (load(tmp_path)["rows"], load(tmp_path)["skipped"]) == ([], skipped)
