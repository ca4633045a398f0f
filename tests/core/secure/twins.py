"""Plain Python beside every routine of secure sums that works on arrays: one number at a time."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from emberfleet.core.secure.packing import BLOCK
from emberfleet.core.secure.ring import Ring


def chacha20_block(key: bytes, counter: int, nonce: bytes = bytes(12)) -> bytes:
    """RFC 8439, section 2.3."""
    start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574]
    start += [*struct.unpack("<8I", key), counter, *struct.unpack("<3I", nonce)]
    state = list(start)
    for _ in range(10):
        for a, b, c, d in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)):
            quarter_round(state, a, b, c, d)
        for a, b, c, d in ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
            quarter_round(state, a, b, c, d)
    return struct.pack("<16I", *((x + y) & 0xFFFFFFFF for x, y in zip(state, start, strict=True)))


def quarter_round(state: list[int], a: int, b: int, c: int, d: int) -> None:
    for target, source, mixed, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        state[target] = (state[target] + state[source]) & 0xFFFFFFFF
        value = state[mixed] ^ state[target]
        state[mixed] = (value << turn | value >> (32 - turn)) & 0xFFFFFFFF


def keystream(seed: bytes, count: int) -> bytes:
    blocks = -(-count // 64)
    return b"".join(chacha20_block(seed, index) for index in range(blocks))[:count]


def numbers(seed: bytes, count: int, size_bytes: int) -> list[int]:
    """Little-endian integers as they stand in the keystream."""
    stream = keystream(seed, count * size_bytes)
    return [
        int.from_bytes(stream[at : at + size_bytes], "little") for at in range(0, len(stream), size_bytes)
    ]


def pack(values: Sequence[int], ring: Ring) -> bytes:
    """Bit after bit, as the docstring of `core.secure.packing` says."""
    packed = b""
    rows = ring.word_bits
    for begin in range(0, len(values), BLOCK):
        block = list(values[begin : begin + BLOCK])
        columns = -(-len(block) // rows)
        block += [0] * (columns * rows - len(block))
        strings = [
            sum(
                (block[row * columns + column] % (1 << ring.width)) << (row * ring.width)
                for row in range(rows)
            )
            for column in range(columns)
        ]
        size_bytes = ring.word_bits // 8
        for index in range(ring.width):
            for string in strings:
                word = (string >> (index * ring.word_bits)) % (1 << ring.word_bits)
                packed += word.to_bytes(size_bytes, "little")
    return packed


def signed(value: int, ring: Ring) -> int:
    value %= 1 << ring.width
    return value - (1 << ring.width) if value >> (ring.width - 1) else value


def rounded(
    change: Sequence[float], clips: Sequence[float], share: float, bits: int, seed: bytes
) -> list[int]:
    """The integers of a change, each by itself; `np.float32` stands for the arithmetic of that type."""
    limit = 2 ** (bits - 1) - 1
    largest = share * limit * 65536
    draws = numbers(seed, len(change), 2)
    found = []
    for value, clip, draw in zip(change, clips, draws, strict=True):
        with np.errstate(over="ignore", under="ignore"):
            scaled = np.float32(value) * np.float32(largest / clip)
        clamped = min(max(scaled, np.float32(-largest)), np.float32(largest))
        found.append((round(float(clamped)) + draw) >> 16)
    return found


def hypergeometric(population: int, marked: int, drawn: int, count: int) -> Fraction:
    """Probability of exactly `count` marked among those drawn."""
    ways = math.comb(marked, count) * math.comb(population - marked, drawn - count) if count <= drawn else 0
    return Fraction(ways, math.comb(population, drawn))


def most_drawn(population: int, marked: int, drawn: int, bound: Fraction) -> int:
    def more_than(t: int) -> Fraction:
        counts = range(t + 1, min(marked, drawn) + 1)
        return sum((hypergeometric(population, marked, drawn, count) for count in counts), Fraction(0))

    return next(t for t in range(drawn + 1) if more_than(t) <= bound)


def least_drawn(population: int, marked: int, drawn: int, bound: Fraction) -> int:
    below = Fraction(0)
    for t in range(drawn):
        below += hypergeometric(population, marked, drawn, t)
        if below >= bound:
            return t
    return drawn
