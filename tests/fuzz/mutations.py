"""Valid bytes, broken in ways that parsers fall over: a seeded stream of inputs, the same on every machine.

Text that is JSON is also broken by its structure: values of other types and sizes, doubled and missing names,
members and items swapped, nesting that is too deep.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

MAX_GROWTH: Final = 1 << 14
ODD_VALUES: Final[tuple[bytes, ...]] = (
    b"null", b"true", b"false", b"0", b"1", b"-1", b"2", b"255", b"65536", b"0.5", b"-0.0", b"1.0", b"1e400",
    b"-1e400", b"5e-324", b"1e308", b"NaN", b"Infinity", b"-Infinity", b"2147483648", b"4294967296",
    b"9007199254740991", b"9007199254740992", b"18446744073709551616", b"1" * 20, b"1" * 21, b"9" * 400,
    b"9" * 5000,
    b'""', b'"a"', b'"\\u0000"', b'"\\ud800"', b'"\xc3\xa4"', b'"\xff"',
    b'"' + b"a" * 300 + b'"', b'"' + b"0" * 64 + b'"', b'"' + b"f" * 32 + b'"', b'"AA=="', b'"AAAA"',
    b'"/////w=="', b'"../../x"',
    b"[]", b"[[]]", b"[0]", b'["a"]', b"[0,0]", b"{}", b'{"":0}', b'{"a":{}}', b"[" * 40 + b"]" * 40,
    b"[" * 3000 + b"]" * 3000, b'{"a":' * 3000 + b"0" + b"}" * 3000,
)  # fmt: skip
ODD_NUMBERS: Final = (
    0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
    0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF,
)  # fmt: skip
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[-+.0-9A-Za-z]+|[\[\]{},:]')

Span = tuple[int, int]


@dataclass(frozen=True)
class Seed:
    """One valid input, and where its JSON values, and its members and items, begin and end."""

    data: bytes
    values: tuple[Span, ...] = ()
    entries: tuple[Span, ...] = ()

    @classmethod
    def of(cls, data: bytes) -> Seed:
        """Find the structure of a text of JSON; other bytes have none."""
        if data.lstrip()[:1] not in (b"{", b"["):
            return cls(data)
        values: list[Span] = []
        entries: list[Span] = []
        opened: list[tuple[int, int]] = []
        begin = -1
        for token in _TOKEN.finditer(data):
            first, text = token.start(), token[0]
            if text in (b"{", b"["):
                opened.append((begin if begin >= 0 else first, first))
                begin = -1
            elif text in (b"}", b"]"):
                if not opened:
                    return cls(data)
                if begin >= 0:
                    entries.append((begin, first))
                entry, value = opened.pop()
                values.append((value, token.end()))
                begin = entry if opened else -1
            elif text == b",":
                entries.append((begin, first))
                begin = -1
            elif text != b":":
                if begin < 0:
                    begin = first
                if data[token.end() : token.end() + 1] != b":":
                    values.append(token.span())
        spans = tuple(span for span in entries if 0 <= span[0] < span[1])
        return cls(data, tuple(values), spans)


@dataclass
class Mutator:
    """An endless stream of inputs out of some valid ones."""

    seeds: Sequence[Seed]
    chance: random.Random
    pool: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        for seed in self.seeds:
            self.pool += [seed.data[a:b] for a, b in seed.values if b - a <= MAX_GROWTH]

    def inputs(self, count: int) -> Iterator[bytes]:
        """So many inputs; the first are the seeds themselves."""
        for seed in self.seeds[:count]:
            yield seed.data
        for _ in range(count - len(self.seeds)):
            yield self.one()

    def one(self) -> bytes:
        """One broken input; now and then it happens to be valid."""
        draw = self.chance.random
        seed = self.seeds[int(draw() * len(self.seeds))]
        if seed.values and draw() < 0.7:
            data = self._restructured(seed)
            return data if draw() < 0.9 else self._damaged(data)
        data = self._damaged(seed.data)
        return data if draw() < 0.7 else self._damaged(data)

    def _restructured(self, seed: Seed) -> bytes:
        draw, data = self.chance.random, seed.data
        how = draw()
        if how < 0.65 or not seed.entries:
            first, end = seed.values[int(draw() * len(seed.values))]
            return data[:first] + self._value(data[first:end]) + data[end:]
        first, end = seed.entries[int(draw() * len(seed.entries))]
        if how < 0.75:
            return data[:first] + data[end + (data[end : end + 1] == b",") :]
        if how < 0.85:
            return data[:end] + b"," + data[first:end] + data[end:]
        other, last = seed.entries[int(draw() * len(seed.entries))]
        if end <= other:
            between = data[end:other]
            return data[:first] + data[other:last] + between + data[first:end] + data[last:]
        return data[:end] + b"," + data[other:last] + data[end:]

    def _value(self, old: bytes) -> bytes:
        draw = self.chance.random
        how = draw()
        if how < 0.5:
            return ODD_VALUES[int(draw() * len(ODD_VALUES))]
        if how < 0.7:
            return self.pool[int(draw() * len(self.pool))]
        if how < 0.75:
            return b"[" + old + b"]"
        if how < 0.8:
            return b"[" + b",".join([old] * (1 + int(draw() * 40))) + b"]" if len(old) < 400 else b"[]"
        if old[:1] == b'"':
            return b'"' + self._damaged(old[1:-1]) + b'"'
        if old.isdigit() and len(old) < 20:
            number = int(old)
            return b"%d" % (number + 1, number - 1, number * 2, -number, number << 32)[int(draw() * 5)]
        return self._damaged(old)

    def _damaged(self, data: bytes) -> bytes:
        draw = self.chance.random
        size, how = len(data), int(draw() * 11)
        if not size:
            return self.chance.randbytes(1 + int(draw() * 8))
        at = int(draw() * size)
        if how == 0:
            return data[:at]
        if how == 1:
            return data[:at] + bytes((data[at] ^ 1 << int(draw() * 8),)) + data[at + 1 :]
        if how == 2:
            return data[:at] + bytes((int(draw() * 256),)) + data[at + 1 :]
        if how == 3:
            return data[:at] + data[at + 1 + int(draw() * min(64, size)) :]
        if how == 4:
            return data[:at] + self.chance.randbytes(1 + int(draw() * 16)) + data[at:]
        if how in (5, 6):
            width = (1, 2, 4, 8)[int(draw() * 4)]
            number = ODD_NUMBERS[int(draw() * len(ODD_NUMBERS))] & ((1 << 8 * width) - 1)
            return data[:at] + number.to_bytes(width, "little" if how == 5 else "big") + data[at + width :]
        if how == 7:
            part = data[at : at + 1 + int(draw() * 64)]
            return data[:at] + part * (1 + int(draw() * 8)) + data[at:]
        if how == 8:
            other = self.seeds[int(draw() * len(self.seeds))].data
            return data[:at] + other[int(draw() * len(other)) :]
        if how == 9:
            end = min(size, at + 1 + int(draw() * 32))
            return data[:at] + bytes(end - at) + data[end:]
        return data + (data[at:] if draw() < 0.5 else bytes(int(draw() * 64)))
