"""Packing: exactly `width` bits a value, the bits where the plain twin puts them, and back."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberfleet.core.errors import FormatError, ShapeError
from emberfleet.core.secure.packing import BLOCK, pack, packed_bytes, unpack
from emberfleet.core.secure.ring import Ring
from tests.core.secure import twins

RINGS = st.builds(Ring, st.integers(2, 16), st.sampled_from([1, 2, 100, 1000, 65536]))


def some_words(ring: Ring, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << ring.word_bits, count, np.uint64).astype(ring.word)


@given(RINGS, st.integers(0, 200), st.integers(0, 100))
def test_bits_stand_where_the_plain_twin_puts_them_and_come_back(ring: Ring, count: int, seed: int) -> None:
    words = some_words(ring, count, seed)
    packed = pack(words, ring)
    assert packed == twins.pack(words.tolist(), ring)
    assert unpack(packed, count, ring).tolist() == [int(word) % (1 << ring.width) for word in words]
    assert len(packed) == packed_bytes(count, ring)


@pytest.mark.parametrize("ring", [Ring(8, 100), Ring(8, 1000)], ids=["16-bit words", "32-bit words"])
def test_a_second_block_and_a_short_last_one_are_packed_alike(ring: Ring) -> None:
    words = some_words(ring, BLOCK + 77)
    packed = pack(words, ring)
    first = packed_bytes(BLOCK, ring)
    assert packed[:first] == pack(words[:BLOCK], ring)
    assert packed[first:] == twins.pack(words[BLOCK:].tolist(), ring)
    assert (unpack(packed, words.size, ring) == words % (1 << ring.width)).all()


@pytest.mark.parametrize("ring", [Ring(8, 100), Ring(8, 1000)], ids=["16-bit words", "32-bit words"])
def test_a_whole_block_is_the_plain_twins(ring: Ring) -> None:
    words = some_words(ring, BLOCK, 5)
    assert pack(words, ring) == twins.pack(words.tolist(), ring)


@given(RINGS, st.integers(0, 10 * BLOCK))
def test_a_value_takes_its_width_and_all_of_them_less_than_a_column_more(ring: Ring, count: int) -> None:
    bits = 8 * packed_bytes(count, ring)
    assert count * ring.width <= bits < count * ring.width + ring.word_bits * ring.width
    assert count % ring.word_bits or bits == count * ring.width


@settings(max_examples=50)
@given(RINGS, st.integers(1, 100), st.integers(-3, 3).filter(bool))
def test_another_length_is_refused(ring: Ring, count: int, more: int) -> None:
    packed = pack(some_words(ring, count), ring)
    wrong = packed[:more] if more < 0 else packed + bytes(more)
    with pytest.raises(ShapeError, match=f"{len(wrong)} bytes, expected {len(packed)}"):
        unpack(wrong, count, ring)


def test_a_wrong_length_is_refused_before_anything_is_allocated() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ShapeError, match="expected"):
            unpack(b"short", 1 << 26, Ring(8, 100))
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()


@given(RINGS, st.integers(1, 31))
def test_bits_that_stand_for_no_value_must_be_zero(ring: Ring, count: int) -> None:
    count = min(count, ring.word_bits - 1)
    packed = bytearray(pack(some_words(ring, count), ring))
    packed[-1] |= 0x80
    with pytest.raises(FormatError, match="something else than zeros"):
        unpack(bytes(packed), count, ring)
