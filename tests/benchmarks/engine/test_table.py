from __future__ import annotations

import pytest

from benchmarks.engine.table import BEGIN, END, insert, render
from emberfleet.core.errors import ConfigError
from tests.benchmarks.engine.side_by_side import value


def test_a_line_holds_our_time_and_every_peers_time_and_ratio() -> None:
    lines = render(value()).splitlines()
    assert "| infer sq32 | 2 | 20 (19-21) | 10 (0.50) | 20 (1.00) | 30 (1.50) | 40 (2.00) |" in lines
    assert "| train sq32, ours on numpy | 1 | 20 (19-21) |  |  | 15 (0.75) |  |  |" in lines
    assert "| infer sq224 int8 | 100 | 400 | 400 | 400 |" in lines


def test_a_time_above_a_second_is_written_without_a_power_of_ten() -> None:
    found = value()
    found["rows"][0] |= {"peer_ms": 1234.5, "ratio": 61.7}
    assert "| 1234 (61.70) |" in render(found)


def test_memory_and_startup_have_their_tables_and_what_was_skipped_is_left_out() -> None:
    text = render(value())
    assert "| ours, auto (litert) | sq32 | 41.2 |" in text
    assert "no device" not in text
    assert "| train small | 8 | 3.00 | 2.00 | 1.500 |" in text
    assert "| small | int8 | warm | 0.12 | 0.20 |" in text


def test_every_table_is_as_wide_in_every_line() -> None:
    for block in render(value()).split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1


def test_the_text_says_when_the_machine_was_not_quiet() -> None:
    found = value()
    assert "not quiet" not in render(found)
    found["rows"][3]["quiet"] = False
    assert "not quiet" in render(found)


def test_a_peer_that_was_not_timed_is_listed_with_the_reason() -> None:
    found = value()
    found["skipped"] = [{"work": "train small", "threads": 1, "peer": "TensorFlow", "reason": "no wheel"}]
    assert "- TensorFlow, train small, threads 1: no wheel" in render(found)


@pytest.mark.parametrize("fault", ["quick", "alone", "empty"])
def test_only_a_real_side_by_side_run_becomes_a_table(fault: str) -> None:
    found = value()
    if fault == "quick":
        found["quick"] = True
    else:
        found["rows"] = [{**found["rows"][0], "peer": None}] if fault == "alone" else []
    with pytest.raises(ConfigError, match="make bench-peers"):
        render(found)


def test_the_tables_replace_what_stood_between_the_marks() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert insert(text, "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert insert(insert(text, "once"), "twice") == insert(text, "twice")


@pytest.mark.parametrize("text", ["", BEGIN, f"{END} {BEGIN}"])
def test_a_text_without_the_marks_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="marks"):
        insert(text, "new")
