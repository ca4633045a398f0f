"""Sizes as people write them, and what is said of a memory limit."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.cli.memory import memory_facts, memory_words, parse_limit, parse_size, size_words
from emberfleet.core.errors import ConfigError
from emberfleet.engine.memory import ArenaPlan, TrainingMemory


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("500K", 500 << 10),
        ("64M", 64 << 20),
        ("64m", 64 << 20),
        ("1G", 1 << 30),
        ("1.5G", 3 << 29),
        ("32 MiB", 32 << 20),
        ("2kB", 2048),
        (" 7M ", 7 << 20),
    ],
)
def test_a_size_counts_in_1024s(text: str, size: int) -> None:
    assert parse_size(text) == size


NO_SIZES = ["", "M", "-1M", "0", "0.0000001K", "64T", "64 Mb s", "1e3", "nan", "٣M", "9" * 40]


@pytest.mark.parametrize("text", NO_SIZES)
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="is no size: write") as caught:
        parse_size(text)
    assert repr(text)[1:-1] in str(caught.value)


@given(st.text())
def test_any_text_is_a_size_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert parse_size(text) >= 1


def test_no_limit_stays_no_limit() -> None:
    assert parse_limit(None) is None
    assert parse_limit("1K") == 1024


@pytest.mark.parametrize(
    ("size", "words"),
    [(512, "512 bytes"), (2048, "2 KiB"), (12_058_624, "11.5 MiB"), (3 << 30, "3 GiB")],
)
def test_sizes_are_said_in_the_unit_that_fits(size: int, words: str) -> None:
    assert size_words(size) == words


def _memory(recomputed: tuple[str, ...], limit_bytes: int | None) -> TrainingMemory:
    return TrainingMemory(ArenaPlan({}, 11 << 20, 10 << 20), limit_bytes, recomputed, 0.0525)


def test_what_is_computed_twice_is_said_by_module_with_its_price() -> None:
    names = ("conv1", "fire2/squeeze", "fire2/norm", "fire5/norm")
    assert memory_words(_memory(names, 12 << 20)) == (
        "Memory for values: 11 MiB of at most 12 MiB; parts of conv1, fire2, fire5 are computed twice, "
        "about 5.2 % more work"
    )


def test_many_modules_are_counted_after_the_first_ones() -> None:
    names = tuple(f"fire{index}/norm" for index in range(2, 10))
    assert "fire7 and 2 more are computed twice" in memory_words(_memory(names, 12 << 20))


def test_without_a_limit_only_the_size_is_said() -> None:
    assert memory_words(_memory((), None)) == "Memory for values: 11 MiB; nothing is computed twice"


def test_programs_read_the_same_facts() -> None:
    assert memory_facts(_memory(("conv1",), 12 << 20)) == {
        "size_bytes": 11 << 20,
        "bound_bytes": 10 << 20,
        "limit_bytes": 12 << 20,
        "computed_twice": ["conv1"],
        "extra_work": 0.0525,
    }
