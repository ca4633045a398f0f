"""Tensors packed small: levels by entropy coding, everything else by LZMA over the planes of its bytes.

Each weight of a convolution that is made of levels (`converters.wire.levels`) travels as steps and the errors
of a forecast (`converters.wire.forecast`); any other float32 tensor as it is.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

import numpy as np

from emberfleet.converters.wire.forecast import (
    CONTEXTS,
    MAX_TAPS,
    REACH,
    Forecast,
    Group,
    forecast_of,
    tap_rows,
)
from emberfleet.converters.wire.levels import Levels, exact_levels, weights_of
from emberfleet.converters.wire.rans import Decoder, encode_symbols, frequencies, short_table, table_of
from emberfleet.core.arrays import Array, Float32, Int32, Int64
from emberfleet.core.errors import FormatError
from emberfleet.core.quantization import WEIGHT_MAX

FILTERS: Final = [
    {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": 1 << 22,
        "lc": 4,
        "lp": 0,
        "pb": 0,
    }
]
"""A 4 MiB window bounds what a reader's decompressor holds."""


class Kind(IntEnum):
    """How a tensor travels."""

    RAW = 0
    LEVELED = 1


class Entry(NamedTuple):
    """One tensor of the directory."""

    name: str
    shape: tuple[int, ...]
    kind: Kind


class Packed(NamedTuple):
    """The directory, the numbers of all tensors (compressed) and the codes of the levels."""

    entries: tuple[Entry, ...]
    numbers: bytes
    numbers_size: int
    most: int
    """The largest magnitude of a level."""
    codes: bytes


def pack(tensors: Mapping[str, Float32]) -> Packed:
    """Pack float32 tensors; `unpack` gives the same bits."""
    found = {name: _levels_of(name, value) for name, value in tensors.items()}
    entries = tuple(
        Entry(name, tensors[name].shape, Kind.LEVELED if found[name] else Kind.RAW)
        for name in sorted(tensors)
    )
    leveled = [levels for entry in entries if (levels := found[entry.name]) is not None]
    forecasts = [forecast_of(levels.levels) for levels in leveled]
    most = max([1, *(int(np.abs(levels.levels).max()) for levels in leveled)])
    width = 2 * most + 1
    runs: list[tuple[Int64, Int64]] = []
    for where in _groups([levels.levels.shape for levels in leveled]):
        inside = [leveled[n].levels for n in where]
        group = Group([each.shape for each in inside], [forecasts[n] for n in where])
        for row in tap_rows(inside):
            forecast, contexts = group.ahead()
            symbols = (row - forecast + most) % width
            group.learn(row, symbols - most)
            runs.append((symbols, contexts))
    counts = np.zeros(CONTEXTS * width, np.int64)
    for symbols, contexts in runs:
        counts += np.bincount((contexts * width + symbols).astype(np.intp), minlength=len(counts))
    short = short_table(frequencies(counts.reshape(CONTEXTS, width)))
    raw = [tensors[entry.name].ravel() for entry in entries if entry.kind is Kind.RAW]
    numbers = b"".join(
        (
            short.tobytes(),
            *(b"".join(part.tobytes() for part in f) for f in forecasts),
            _planes(
                np.concatenate([np.empty(0, "<f4"), *(levels.steps for levels in leveled)]).astype("<f4")
            ),
            _planes(np.concatenate([np.empty(0, "<f4"), *raw]).astype("<f4")),
        )
    )
    codes = encode_symbols(runs, table_of(short)) if leveled else b""
    return Packed(entries, compress(numbers), len(numbers), most, codes)


def unpack(packed: Packed) -> dict[str, Float32]:
    """The tensors that `pack` was given.

    Raises:
        FormatError: sizes that do not fit together, or damaged codes.
    """
    if not 1 <= packed.most <= WEIGHT_MAX:
        raise FormatError(f"wire: levels up to {packed.most}, expected 1 to {WEIGHT_MAX}")
    for entry in packed.entries:
        if entry.kind is Kind.LEVELED and not _can_be_leveled(entry.shape):
            raise FormatError(
                f"wire: '{entry.name}' has shape {entry.shape}, expected four axes for levels, "
                f"none of them 0 and at most {MAX_TAPS} taps"
            )
    shapes = [entry.shape for entry in packed.entries if entry.kind is Kind.LEVELED]
    symbols = 2 * packed.most + 1
    outputs = sum(shape[0] for shape in shapes)
    told = sum(shape[0] + shape[3] + (1 + REACH) * shape[1] * shape[2] for shape in shapes)
    floats = sum(math.prod(entry.shape) for entry in packed.entries if entry.kind is Kind.RAW)
    size = CONTEXTS * symbols + told + 4 * outputs + 4 * floats
    if size != packed.numbers_size:
        raise FormatError(f"wire: {packed.numbers_size} bytes of numbers, expected {size} for these tensors")
    numbers = _Reader(decompress(packed.numbers, size, "numbers"))
    table = table_of(numbers.plain(np.uint8, CONTEXTS * symbols).reshape(CONTEXTS, symbols))
    forecasts = [numbers.forecast(shape) for shape in shapes]
    steps = numbers.planes("<f4", outputs).astype(np.float32)
    values = numbers.planes("<f4", floats).astype(np.float32)
    if packed.codes and not shapes:
        raise FormatError("wire: codes without a tensor that they belong to")
    levels = iter(_decoded(packed.codes, table, packed.most, shapes, forecasts) if shapes else ())
    tensors: dict[str, Float32] = {}
    at = dict.fromkeys(Kind, 0)
    for entry in packed.entries:
        begin = at[entry.kind]
        end = begin + (entry.shape[0] if entry.kind is Kind.LEVELED else math.prod(entry.shape))
        at[entry.kind] = end
        if entry.kind is Kind.LEVELED:
            # Steps from outside may be infinite; what comes of them has no digest that was signed.
            with np.errstate(over="ignore", invalid="ignore"):
                tensors[entry.name] = weights_of(Levels(next(levels), steps[begin:end]))
        else:
            tensors[entry.name] = values[begin:end].reshape(entry.shape)
    return tensors


def _decoded(
    codes: bytes,
    table: Int64,
    most: int,
    shapes: Sequence[tuple[int, ...]],
    forecasts: Sequence[Forecast],
) -> list[Int32]:
    """The levels of tensors of these shapes, in their order."""
    decoder = Decoder(codes, table)
    found: dict[int, Int32] = {}
    for where in _groups(shapes):
        inside = [shapes[n] for n in where]
        group = Group(inside, [forecasts[n] for n in where])
        for _ in range(group.taps):
            forecast, contexts = group.ahead()
            symbols = decoder.take(contexts)
            group.learn((symbols + forecast) % (2 * most + 1) - most, symbols - most)
        found.update(zip(where, group.tensors(inside), strict=True))
    decoder.finish()
    return [found[n] for n in range(len(shapes))]


def _groups(shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Places of the shapes with equally many taps, fewest taps first."""
    groups: dict[int, list[int]] = {}
    for place, shape in enumerate(shapes):
        groups.setdefault(shape[1] * shape[2], []).append(place)
    return [groups[taps] for taps in sorted(groups)]


def _levels_of(name: str, value: Float32) -> Levels | None:
    return exact_levels(value) if name.endswith("/weight") and _can_be_leveled(value.shape) else None


def _can_be_leveled(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and math.prod(shape) > 0 and shape[1] * shape[2] <= MAX_TAPS


def compress(data: bytes) -> bytes:
    """LZMA without a container: sizes and digests stand elsewhere."""
    return lzma.compress(data, lzma.FORMAT_RAW, filters=FILTERS)


def decompress(data: bytes, size: int, what: str) -> bytes:
    """Exactly `size` bytes, never more.

    Raises:
        FormatError: damaged, or another number of bytes.
    """
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=FILTERS)
    try:
        found = unpacker.decompress(data, max_length=size + 1)
    except lzma.LZMAError as error:
        raise FormatError(f"wire: the {what} cannot be decompressed") from error
    if len(found) != size or not unpacker.eof or unpacker.unused_data:
        raise FormatError(f"wire: the {what} are not the {size} bytes that the head states")
    return found


class _Reader:
    """Arrays one after another out of bytes whose number has been checked."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def plain(self, dtype: Any, count: int) -> Array:
        size = np.dtype(dtype).itemsize * count
        self._at += size
        return np.frombuffer(self._data[self._at - size : self._at], dtype)

    def forecast(self, shape: tuple[int, ...]) -> Forecast:
        o, kh, kw, c = shape
        outputs, inputs, taps = (self.plain(np.int8, count) for count in (o, c, kh * kw))
        rules = self.plain(np.int8, REACH * kh * kw).reshape(kh * kw, REACH)
        return Forecast(outputs, inputs, taps, rules)

    def planes(self, dtype: str, count: int) -> Array:
        size = np.dtype(dtype).itemsize
        bytes_of = self.plain(np.uint8, count * size).reshape(size, count)
        return np.ascontiguousarray(bytes_of.T).reshape(-1).view(dtype)


def _planes(values: Array) -> bytes:
    """First all lowest bytes, then all second ones: like bytes stand together."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat.view(np.uint8).reshape(len(flat), flat.itemsize).T.tobytes()
