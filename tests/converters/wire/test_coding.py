"""Entropy coding gives back what it was given, at the size that theory says, and refuses anything else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.converters.wire.forecast import CONTEXTS, REACH, Forecast, Group, forecast_of, tap_rows
from emberfleet.converters.wire.levels import Levels, exact_levels, weights_of
from emberfleet.converters.wire.packing import Kind, compress, decompress, pack, unpack
from emberfleet.converters.wire.rans import (
    LANES,
    TOTAL,
    Decoder,
    encode_symbols,
    frequencies,
    short_table,
    table_of,
)
from emberfleet.core.arrays import Int32, Int64
from emberfleet.core.errors import FormatError


def drawn(seed: int, count: int, symbols: int, contexts: int) -> tuple[Int64, Int64, Int64]:
    random = np.random.default_rng(seed)
    which = random.integers(0, contexts, count)
    values = np.minimum(random.geometric(1.0 / (1.5 + which)) - 1, symbols - 1)
    counts = np.zeros((contexts, symbols), np.int64)
    np.add.at(counts, (which, values), 1)
    return values.astype(np.int64), which.astype(np.int64), frequencies(counts)


def decoded(data: bytes, contexts: list[Int64], table: Int64) -> list[Int64]:
    decoder = Decoder(data, table)
    found = [decoder.take(each) for each in contexts]
    decoder.finish()
    return found


@given(st.integers(0, 999), st.integers(1, 1000), st.integers(1, 255), st.integers(1, 8))
def test_symbols_come_back(seed: int, count: int, symbols: int, contexts: int) -> None:
    values, which, table = drawn(seed, count, symbols, contexts)
    cut = count // 3
    runs = [(values[:cut], which[:cut]), (values[cut:], which[cut:])]
    found = decoded(encode_symbols(runs, table), [contexts for _, contexts in runs], table)
    np.testing.assert_array_equal(np.concatenate(found), values)


def test_the_size_is_the_entropy_and_little_more() -> None:
    values, which, table = drawn(1, 100_000, 40, 6)
    ideal = -np.log2(table[which, values] / TOTAL).sum() / 8
    assert ideal < len(encode_symbols([(values, which)], table)) < ideal * 1.002 + 8 * LANES + 4


def test_frequencies_sum_up_and_no_counted_symbol_is_lost() -> None:
    counts = np.array([[0, 0, 0], [1, 10**9, 0], [5, 5, 5]], np.int64)
    table = frequencies(counts)
    assert (table.sum(axis=1) == TOTAL).all()
    assert ((table > 0) >= (counts > 0)).all()


@given(st.integers(0, 999), st.integers(1, 255))
def test_a_short_table_is_close_and_loses_no_symbol(seed: int, symbols: int) -> None:
    _, _, table = drawn(seed, 500, symbols, 4)
    found = table_of(short_table(table))
    assert (found.sum(axis=1) == TOTAL).all()
    np.testing.assert_array_equal(found > 0, table > 0)
    shares = table / TOTAL
    extra = np.where(table > 0, shares * np.log2(np.maximum(table, 1) / np.maximum(found, 1)), 0.0)
    assert extra.sum(axis=1).max() < 0.02


def test_a_short_table_of_numbers_that_stand_for_nothing_is_refused() -> None:
    with pytest.raises(FormatError, match="frequency 255"):
        table_of(np.full((1, 3), 255, np.uint8))


def test_damaged_codes_are_refused() -> None:
    values, which, table = drawn(2, 5_000, 20, 3)
    data = encode_symbols([(values, which)], table)
    for broken in (data[:-4], data + bytes(4), data[:100], b"", data[:-1], bytes(4) + data[4:]):
        with pytest.raises(FormatError):
            decoded(broken, [which], table)


@pytest.mark.parametrize("most", [1, 7, 63, 127])
def test_levels_of_a_weight_are_found_exactly(most: int) -> None:
    random = np.random.default_rng(most)
    levels = np.clip(np.rint(random.laplace(0, most / 5, (20, 3, 3, 10))), -most, most).astype(np.int32)
    levels[3] = 0
    levels[:, 0, 0, 0] += (levels[:, 0, 0, 0] == 0) & (np.arange(20) != 3)
    weight = weights_of(Levels(levels, random.uniform(1e-4, 3, 20).astype(np.float32)))
    found = exact_levels(weight)
    assert found is not None
    np.testing.assert_array_equal(weights_of(found), weight)
    assert np.abs(found.levels).max() <= most


def test_a_weight_of_real_numbers_has_no_levels() -> None:
    assert exact_levels(np.random.default_rng(0).standard_normal((4, 3, 3, 8)).astype(np.float32)) is None


def coded(levels: list[Int32]) -> tuple[Int64, Int64]:
    """The errors and contexts of a group, tap after tap; its levels have come back."""
    shapes = [each.shape for each in levels]
    group = Group(shapes, [forecast_of(each) for each in levels])
    errors, contexts = [], []
    for row in tap_rows(levels):
        forecast, context = group.ahead()
        errors.append(row - forecast)
        contexts.append(context)
        group.learn(row, errors[-1])
    for found, expected in zip(group.tensors(shapes), levels, strict=True):
        np.testing.assert_array_equal(found, expected)
    return np.stack(errors), np.stack(contexts)


def test_contexts_tell_loud_channels_from_quiet_ones() -> None:
    random = np.random.default_rng(0)
    loud = np.exp(random.normal(0, 1, (30, 1, 1, 1))) * np.exp(random.normal(0, 1, 40))
    levels = np.rint(random.laplace(0, 2, (30, 3, 3, 40)) * loud).clip(-127, 127).astype(np.int32)
    errors, contexts = coded([levels, levels[:7]])
    assert contexts.min() >= 0
    assert contexts.max() < CONTEXTS
    assert np.corrcoef(contexts.ravel(), np.log(np.abs(errors).ravel() + 0.5))[0, 1] > 0.65


def test_taps_that_are_alike_are_forecast_from_each_other() -> None:
    random = np.random.default_rng(1)
    common = random.normal(0, 20, (16, 1, 1, 50))
    levels = np.rint(common + random.normal(0, 4, (16, 3, 3, 50))).clip(-127, 127).astype(np.int32)
    errors, contexts = coded([levels])
    assert np.abs(errors[0]).mean() > 12
    assert np.abs(errors[4:]).mean() < 5
    assert contexts[4:].mean() < contexts[0].mean() - 3


def test_a_forecast_of_other_channels_is_refused() -> None:
    right = forecast_of(np.ones((4, 1, 1, 3), np.int32))
    for wrong in (
        right._replace(outputs=right.outputs[:2]),
        right._replace(inputs=right.inputs[:2]),
        right._replace(rules=np.zeros((2, REACH), np.int8)),
    ):
        assert isinstance(wrong, Forecast)
        with pytest.raises(FormatError, match="one number per channel"):
            Group([(4, 1, 1, 3)], [wrong])


def test_packed_tensors_come_back_bit_for_bit() -> None:
    random = np.random.default_rng(4)
    levels = random.integers(-9, 10, (8, 3, 3, 4)).astype(np.int32)
    tensors = {
        "a/weight": weights_of(Levels(levels, np.full(8, 0.1, np.float32))),
        "a/bias": random.standard_normal(8).astype(np.float32),
        "b/weight": random.standard_normal((3, 1, 1, 8)).astype(np.float32),
        "b/range": np.array([-0.0, 1.5], np.float32),
        "d/weight": weights_of(Levels(levels[:, :1, :1], np.full(8, 0.2, np.float32))),
        "e/bias": np.array([np.inf, 1.0], np.float32),
    }
    packed = pack(tensors)
    assert [(entry.name, entry.kind) for entry in packed.entries] == [
        ("a/bias", Kind.RAW),
        ("a/weight", Kind.LEVELED),
        ("b/range", Kind.RAW),
        ("b/weight", Kind.RAW),
        ("d/weight", Kind.LEVELED),
        ("e/bias", Kind.RAW),
    ]
    for name, value in unpack(packed).items():
        assert value.tobytes() == tensors[name].tobytes(), name
    with pytest.raises(FormatError, match="numbers"):
        unpack(packed._replace(numbers_size=packed.numbers_size - 4))


def test_nothing_is_unpacked_beyond_the_size_that_was_stated() -> None:
    bomb = compress(bytes(4_000_000))
    with pytest.raises(FormatError, match="1000 bytes"):
        decompress(bomb, 1000, "numbers")
    with pytest.raises(FormatError):
        decompress(bomb[:-5], 4_000_000, "numbers")
