"""The ring: wide enough for every admitted sum, and no wider than its two types."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.errors import ShapeError
from emberfleet.core.secure.ring import MAX_BITS, MAX_DEVICES, MIN_BITS, Ring
from tests.core.secure import twins

RINGS = st.builds(Ring, st.integers(MIN_BITS, MAX_BITS), st.integers(1, MAX_DEVICES))


@given(RINGS)
def test_the_largest_sum_that_is_admitted_does_not_wrap(ring: Ring) -> None:
    largest = ring.devices * ring.limit
    assert largest < 1 << (ring.width - 1)
    assert ring.width <= ring.word_bits
    for extreme in (largest, -largest):
        word = np.array([extreme % (1 << ring.word_bits)], ring.word)
        assert ring.signed(word).tolist() == [extreme]


@given(RINGS, st.lists(st.tuples(st.integers(-(2**15), 2**15), st.integers(1, 20)), max_size=8))
def test_sums_in_words_are_the_sums_of_integers(ring: Ring, terms: list[tuple[int, int]]) -> None:
    total, expected, left = np.zeros(1, ring.word), 0, ring.devices
    for value, times in terms:
        value = max(-ring.limit, min(ring.limit, value))
        times = min(times, left)
        left -= times
        for _ in range(times):
            total += np.array([value], np.int64).astype(ring.word)
        expected += value * times
    assert ring.signed(total).tolist() == [expected]


@given(RINGS, st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_words_stand_for_their_lowest_bits_as_the_plain_twin_reads_them(
    ring: Ring, values: list[int]
) -> None:
    words = np.array([value % (1 << ring.word_bits) for value in values], ring.word)
    before = words.copy()
    assert ring.signed(words).tolist() == [twins.signed(int(word), ring) for word in words]
    assert (words == before).all()


@pytest.mark.parametrize(
    ("bits", "devices", "width", "word"),
    [(8, 1, 8, "<u2"), (8, 2, 9, "<u2"), (8, 100, 15, "<u2"), (8, 128, 15, "<u2"), (8, 129, 16, "<u2"),
     (8, 256, 16, "<u2"), (8, 257, 17, "<u4"), (8, 1000, 18, "<u4"),
     (16, 2, 17, "<u4"), (16, 65536, 32, "<u4")],
)  # fmt: skip
def test_the_width_is_bits_and_the_logarithm_of_devices_rounded_up(
    bits: int, devices: int, width: int, word: str
) -> None:
    ring = Ring(bits, devices)
    assert (ring.width, ring.word) == (width, np.dtype(word))


@pytest.mark.parametrize(("bits", "devices"), [(1, 5), (17, 5), (32, 5), (8, 0), (8, MAX_DEVICES + 1)])
def test_what_fits_no_ring_is_refused(bits: int, devices: int) -> None:
    with pytest.raises(ShapeError, match="expected"):
        Ring(bits, devices)
