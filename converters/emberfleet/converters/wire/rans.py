"""Entropy coding of small whole numbers: range asymmetric numeral systems, many lanes side by side.

A symbol of frequency f out of 2^15 costs ``log2(2^15 / f)`` bits, fractions included. Symbol i of a run
belongs to lane ``i mod LANES``; every lane is a 64-bit state, so numpy codes one symbol of all lanes at a
time. Each symbol has a context that says which table of frequencies it follows; the reader knows those of
a run before it decodes that run, and may work them out from the runs before.

Source: Duda 2013, arXiv:1311.2540; interleaving: Giesen 2014, arXiv:1402.3392.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from emberfleet.core.arrays import Int64, UInt8
from emberfleet.core.errors import FormatError

PRECISION: Final = 15
TOTAL: Final = 1 << PRECISION
LANES: Final = 64
_PER_DOUBLING: Final = 8
"""Steps of a short table for each doubling of a frequency."""
_LOWEST: Final = np.uint64(1 << 31)
_WORD: Final = np.uint64(32)
_MASK: Final = np.uint64(TOTAL - 1)
_BITS: Final = np.uint64(PRECISION)


def frequencies(counts: Int64) -> Int64:
    """Counts ``(contexts, symbols)`` scaled so that each row sums to 2^15 and no counted symbol gets 0.

    A row without counts gets everything on its first symbol.
    """
    scaled = np.zeros_like(counts)
    for row, found in zip(counts, scaled, strict=True):
        total = int(row.sum())
        if total == 0:
            found[0] = TOTAL
            continue
        found[:] = np.where(row > 0, np.maximum(1, row * TOTAL // total), 0)
        while (excess := int(found.sum()) - TOTAL) != 0:
            # The most frequent symbols bear the difference: it costs them least.
            largest = int(found.argmax())
            found[largest] -= min(excess, int(found[largest]) - 1)
    return scaled


def short_table(table: Int64) -> UInt8:
    """Frequencies on a logarithmic scale, one byte each; 0 stands for 0."""
    scaled = np.rint(_PER_DOUBLING * np.log2(np.maximum(table, 1))) + 1
    return np.where(table > 0, scaled, 0).astype(np.uint8)


def table_of(short: UInt8) -> Int64:
    """The frequencies that `short_table` stands for, so that each row sums to 2^15.

    Raises:
        FormatError: a number that stands for more than 2^15.
    """
    if short.size and int(short.max()) >= len(_FREQUENCIES):
        raise FormatError(f"wire: frequency {int(short.max())}, expected at most {len(_FREQUENCIES) - 1}")
    return frequencies(_FREQUENCIES[short])


def encode_symbols(runs: Sequence[tuple[Int64, Int64]], table: Int64) -> bytes:
    """Runs of symbols and their contexts, by the frequencies ``(contexts, symbols)``; none may have 0."""
    starts = np.cumsum(table, axis=1) - table
    states = np.full(LANES, _LOWEST, np.uint64)
    words: list[np.ndarray] = []
    for symbols, contexts in reversed(runs):
        frequency = table[contexts, symbols].astype(np.uint64)
        start = starts[contexts, symbols].astype(np.uint64)
        for begin in range((len(symbols) - 1) // LANES * LANES, -1, -LANES):
            f, s = frequency[begin : begin + LANES], start[begin : begin + LANES]
            lanes = states[: len(f)]
            full = lanes >= (f << np.uint64(63 - PRECISION))
            words.append((lanes[full] & np.uint64(0xFFFFFFFF)).astype("<u4"))
            lanes[full] >>= _WORD
            lanes[:] = ((lanes // f) << _BITS) + lanes % f + s
    return states.astype("<u8").tobytes() + b"".join(word.tobytes() for word in reversed(words))


class Decoder:
    """Gives back, run by run, what `encode_symbols` was given.

    Raises:
        FormatError: the bytes end too soon, are left over, or do not end where an encoder began.
    """

    def __init__(self, data: bytes, table: Int64) -> None:
        if len(data) < 8 * LANES or len(data) % 4:
            raise FormatError(
                f"wire: {len(data)} bytes of codes, expected {8 * LANES} or more, in words of 4"
            )
        symbols = np.tile(np.arange(table.shape[1], dtype=np.int16), len(table))
        self._owner = np.repeat(symbols, table.ravel().astype(np.intp)).reshape(-1, TOTAL)
        self._frequency = table.astype(np.uint64)
        self._start = (np.cumsum(table, axis=1) - table).astype(np.uint64)
        self._states = np.frombuffer(data, "<u8", LANES).astype(np.uint64)
        self._words = np.frombuffer(data, "<u4", offset=8 * LANES).astype(np.uint64)
        self._at = 0

    def take(self, contexts: Int64) -> Int64:
        """The next run: a symbol for each of its contexts."""
        symbols = np.empty(len(contexts), np.int64)
        for begin in range(0, len(contexts), LANES):
            context = contexts[begin : begin + LANES]
            lanes = self._states[: len(context)]
            slot = lanes & _MASK
            found = self._owner[context, slot.astype(np.int64)]
            symbols[begin : begin + LANES] = found
            f, s = self._frequency[context, found], self._start[context, found]
            lanes[:] = f * (lanes >> _BITS) + slot - s
            empty = lanes < _LOWEST
            count = int(np.count_nonzero(empty))
            if self._at + count > len(self._words):
                raise FormatError("wire: the codes end before the last weight")
            lanes[empty] = (lanes[empty] << _WORD) | self._words[self._at : self._at + count]
            self._at += count
        return symbols

    def finish(self) -> None:
        """Check that nothing is left."""
        if self._at != len(self._words) or not (self._states == _LOWEST).all():
            raise FormatError("wire: the codes do not end with the last weight")


_FREQUENCIES: Final = np.concatenate(
    [[0], np.rint(16.0 * 2.0 ** (np.arange(_PER_DOUBLING * PRECISION + 1) / _PER_DOUBLING))]
).astype(np.int64)
"""Sixteen times what each number of a short table stands for; `frequencies` scales them."""
