"""Ring elements at exactly `width` bits each, and back.

Values are packed in blocks of `BLOCK`, the last one shorter. A block is laid out in rows, as many as a word
has bits (16 or 32), of equally many columns, value after value along the rows; what the last block lacks is
zero. The elements of one column, lowest row first, are one string of bits, lowest bit first, in `width`
words; the block is all columns' first words, then their second words, and so on, little-endian. So every
step works on whole rows: no value is touched alone. (The vertical layout of Lemire and Boytsov 2012,
arXiv:1209.2137.)
"""

from __future__ import annotations

from typing import Final

import numpy as np

from emberfleet.core.arrays import Array
from emberfleet.core.errors import FormatError, ShapeError
from emberfleet.core.secure.ring import Ring

BLOCK: Final = 1 << 16
"""Values; a multiple of both words' bits."""


def packed_words(count: int, ring: Ring) -> int:
    """How many words so many values take."""
    full, rest = divmod(count, BLOCK)
    columns = full * (BLOCK // ring.word_bits) + -(-rest // ring.word_bits)
    return columns * ring.width


def packed_bytes(count: int, ring: Ring) -> int:
    """How many bytes so many values take: `width` bits each, rounded up to whole columns."""
    return packed_words(count, ring) * ring.word.itemsize


class Packer:
    """Packs and unpacks block after block, with scratch memory for one."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._rows = np.empty(BLOCK, ring.word)
        self._shifted = np.empty(BLOCK // ring.word_bits, ring.word)

    def pack(self, block: Array, out: Array) -> None:
        """Write at most `BLOCK` values, reduced to `width` bits, into exactly the words they take."""
        rows, words, shifted = self._laid_out(block.size, out)
        padded = rows.reshape(-1)
        np.bitwise_and(block, self._mask(), out=padded[: block.size])
        padded[block.size :] = 0
        bits, width, kind = self._ring.word_bits, self._ring.width, self._ring.word.type
        for index, row in enumerate(rows):
            place, offset = divmod(index * width, bits)
            if offset:
                np.left_shift(row, kind(offset), out=shifted)
                np.bitwise_or(words[place], shifted, out=words[place])
            else:
                words[place] = row
            if offset + width > bits:
                np.right_shift(row, kind(bits - offset), out=words[place + 1])

    def unpack(self, words: Array, count: int) -> Array:
        """The `count` values that `pack` wrote: in memory that the next call uses again.

        Raises:
            FormatError: What stands in for missing values is not zero.
        """
        rows, laid, shifted = self._laid_out(count, words)
        bits, width, kind = self._ring.word_bits, self._ring.width, self._ring.word.type
        for index, row in enumerate(rows):
            place, offset = divmod(index * width, bits)
            np.right_shift(laid[place], kind(offset), out=row)
            if offset + width > bits:
                np.left_shift(laid[place + 1], kind(bits - offset), out=shifted)
                np.bitwise_or(row, shifted, out=row)
        values = rows.reshape(-1)
        np.bitwise_and(values, self._mask(), out=values)
        if values[count:].any():
            raise FormatError("secure sum: the last column is filled up with something else than zeros")
        return values[:count]

    def _laid_out(self, count: int, words: Array) -> tuple[Array, Array, Array]:
        columns = -(-count // self._ring.word_bits)
        rows = self._rows[: columns * self._ring.word_bits].reshape(self._ring.word_bits, columns)
        return rows, words.reshape(self._ring.width, columns), self._shifted[:columns]

    def _mask(self) -> np.unsignedinteger:
        mask: np.unsignedinteger = self._ring.word.type((1 << self._ring.width) - 1)
        return mask


def pack(values: Array, ring: Ring) -> bytes:
    """All values, packed."""
    out, packer = np.zeros(packed_words(values.size, ring), ring.word), Packer(ring)
    for begin in range(0, values.size, BLOCK):
        block = values[begin : begin + BLOCK]
        packer.pack(block, block_words(out, begin, block.size, ring))
    return out.tobytes()


def unpack(data: bytes, count: int, ring: Ring) -> Array:
    """The values that `pack` wrote.

    Raises:
        ShapeError: Not the length that so many values have, found before anything is allocated.
        FormatError: The bits that stand for no value are not zero.
    """
    words, packer = read_words(data, count, ring), Packer(ring)
    values = np.empty(count, ring.word)
    for begin in range(0, count, BLOCK):
        size = min(BLOCK, count - begin)
        values[begin : begin + size] = packer.unpack(block_words(words, begin, size, ring), size)
    return values


def read_words(data: bytes | memoryview, count: int, ring: Ring) -> Array:
    """The words of packed values, a view; raises `ShapeError` when they are not as long as they must be."""
    expected = packed_bytes(count, ring)
    if len(data) != expected:
        raise ShapeError(f"secure sum: {len(data)} bytes, expected {expected} for {count} values")
    return np.frombuffer(data, ring.word)


def block_words(words: Array, begin: int, size: int, ring: Ring) -> Array:
    """The part of all words that holds the block of `size` values at `begin`."""
    start = packed_words(begin, ring)
    return words[start : start + packed_words(size, ring)]
