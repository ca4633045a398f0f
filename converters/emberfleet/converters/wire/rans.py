"""Entropy coding of small whole numbers: range asymmetric numeral systems, many lanes side by side.

A symbol of frequency f out of 2^12 costs ``log2(2^12 / f)`` bits, fractions included. Symbol i belongs to
lane ``i mod LANES``; every lane is a 64-bit state, so numpy codes one symbol of all lanes at a time. Each
symbol has a context, known to the reader beforehand, that says which table of frequencies it follows.

Source: Duda 2013, arXiv:1311.2540; interleaving: Giesen 2014, arXiv:1402.3392.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from emberfleet.core.arrays import Array, Int64
from emberfleet.core.errors import FormatError

PRECISION: Final = 12
TOTAL: Final = 1 << PRECISION
LANES: Final = 64
_LOWEST: Final = np.uint64(1 << 31)
_WORD: Final = np.uint64(32)
_MASK: Final = np.uint64(TOTAL - 1)
_BITS: Final = np.uint64(PRECISION)


def frequencies(counts: Int64) -> Int64:
    """Counts ``(contexts, symbols)`` scaled so that each row sums to 2^12 and no counted symbol gets 0.

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


def encode_symbols(symbols: Int64, contexts: Int64, table: Int64) -> bytes:
    """Symbols by the frequencies ``(contexts, symbols)`` of their contexts; none may have frequency 0."""
    starts = np.cumsum(table, axis=1) - table
    frequency = table[contexts, symbols].astype(np.uint64)
    start = starts[contexts, symbols].astype(np.uint64)
    states = np.full(LANES, _LOWEST, np.uint64)
    words: list[np.ndarray] = []
    for begin in range((len(symbols) - 1) // LANES * LANES, -1, -LANES):
        f, s = frequency[begin : begin + LANES], start[begin : begin + LANES]
        lanes = states[: len(f)]
        full = lanes >= (f << np.uint64(63 - PRECISION))
        words.append((lanes[full] & np.uint64(0xFFFFFFFF)).astype("<u4"))
        lanes[full] >>= _WORD
        lanes[:] = ((lanes // f) << _BITS) + lanes % f + s
    return states.astype("<u8").tobytes() + b"".join(word.tobytes() for word in reversed(words))


def decode_symbols(data: bytes, contexts: Int64, table: Int64) -> Int64:
    """What `encode_symbols` was given.

    Raises:
        FormatError: the bytes end too soon, are left over, or do not end where an encoder began.
    """
    if len(data) < 8 * LANES or len(data) % 4:
        raise FormatError(f"wire: {len(data)} bytes of codes, expected at least {8 * LANES}, in words of 4")
    starts = np.cumsum(table, axis=1) - table
    counts = table.ravel().astype(np.intp)
    owner = np.repeat(np.tile(np.arange(table.shape[1]), len(table)), counts).reshape(-1, TOTAL)
    states = np.frombuffer(data, "<u8", LANES).astype(np.uint64)
    words = np.frombuffer(data, "<u4", offset=8 * LANES).astype(np.uint64)
    symbols = np.empty(len(contexts), np.int64)
    at = 0
    for begin in range(0, len(contexts), LANES):
        context = contexts[begin : begin + LANES]
        lanes = states[: len(context)]
        slot = lanes & _MASK
        found = owner[context, slot.astype(np.int64)]
        symbols[begin : begin + LANES] = found
        f, s = table[context, found].astype(np.uint64), starts[context, found].astype(np.uint64)
        lanes[:] = f * (lanes >> _BITS) + slot - s
        empty = lanes < _LOWEST
        count = int(np.count_nonzero(empty))
        if at + count > len(words):
            raise FormatError("wire: the codes end before the last weight")
        lanes[empty] = (lanes[empty] << _WORD) | words[at : at + count]
        at += count
    if at != len(words) or not (states == _LOWEST).all():
        raise FormatError("wire: the codes do not end with the last weight")
    return symbols


def check_table(table: Array) -> None:
    """Raise `FormatError` unless every row of frequencies sums to 2^12."""
    if table.ndim != 2 or not table.size or table.min() < 0 or (table.sum(axis=1) != TOTAL).any():
        raise FormatError(f"wire: frequencies that do not sum to {TOTAL}")
