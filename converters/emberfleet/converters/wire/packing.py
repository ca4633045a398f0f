"""Tensors packed small: levels by entropy coding, everything else by LZMA over the planes of its bytes.

Each weight of a convolution that is made of levels (`converters.wire.levels`) travels as levels, steps and a
forecast; any other float32 tensor as it is.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from emberfleet.converters.wire.levels import (
    CONTEXTS,
    Forecast,
    Levels,
    contexts_of,
    exact_levels,
    forecast_of,
    weights_of,
)
from emberfleet.converters.wire.rans import check_table, decode_symbols, encode_symbols, frequencies
from emberfleet.core.arrays import Array, Float32, Int64
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


class Entry(NamedTuple):
    """One tensor of the directory."""

    name: str
    shape: tuple[int, ...]
    leveled: bool


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
    found = {
        name: exact_levels(value) if value.ndim == 4 and name.endswith("/weight") else None
        for name, value in tensors.items()
    }
    entries = tuple(Entry(name, tensors[name].shape, found[name] is not None) for name in sorted(tensors))
    leveled = [levels for entry in entries if (levels := found[entry.name]) is not None]
    forecasts = [forecast_of(levels.levels) for levels in leveled]
    most = max([1, *(int(np.abs(levels.levels).max()) for levels in leveled)])
    symbols = _joined([levels.levels.ravel() + most for levels in leveled])
    contexts = _joined([contexts_of(f, v.levels.shape) for f, v in zip(forecasts, leveled, strict=True)])
    cells = (contexts * (2 * most + 1) + symbols).astype(np.intp)
    counts = np.bincount(cells, minlength=CONTEXTS * (2 * most + 1))
    table = frequencies(counts.reshape(CONTEXTS, 2 * most + 1).astype(np.int64))
    raw = [tensors[entry.name].ravel() for entry in entries if not entry.leveled]
    numbers = b"".join(
        (
            _planes(table.astype("<u2")),
            *(f.outputs.tobytes() + f.inputs.tobytes() for f in forecasts),
            _planes(
                np.concatenate([np.empty(0, "<f4"), *(levels.steps for levels in leveled)]).astype("<f4")
            ),
            _planes(np.concatenate([np.empty(0, "<f4"), *raw]).astype("<f4")),
        )
    )
    codes = encode_symbols(symbols, contexts, table) if leveled else b""
    return Packed(entries, compress(numbers), len(numbers), most, codes)


def unpack(packed: Packed) -> dict[str, Float32]:
    """The tensors that `pack` was given.

    Raises:
        FormatError: sizes that do not fit together, or damaged codes.
    """
    if not 1 <= packed.most <= WEIGHT_MAX:
        raise FormatError(f"wire: levels up to {packed.most}, expected 1 to {WEIGHT_MAX}")
    for entry in packed.entries:
        if entry.leveled and (len(entry.shape) != 4 or not math.prod(entry.shape)):
            raise FormatError(f"wire: '{entry.name}' has shape {entry.shape}, expected four axes for levels")
    leveled = [entry for entry in packed.entries if entry.leveled]
    raw = [entry for entry in packed.entries if not entry.leveled]
    symbols = 2 * packed.most + 1
    outputs = sum(entry.shape[0] for entry in leveled)
    inputs = sum(entry.shape[3] for entry in leveled)
    floats = sum(math.prod(entry.shape) for entry in raw)
    size = 2 * CONTEXTS * symbols + outputs + inputs + 4 * outputs + 4 * floats
    if size != packed.numbers_size:
        raise FormatError(f"wire: {packed.numbers_size} bytes of numbers, expected {size} for these tensors")
    numbers = _Reader(decompress(packed.numbers, size, "numbers"))
    table = numbers.planes("<u2", CONTEXTS * symbols).reshape(CONTEXTS, symbols).astype(np.int64)
    check_table(table)
    forecasts = [
        Forecast(numbers.plain(np.int8, entry.shape[0]), numbers.plain(np.int8, entry.shape[3]))
        for entry in leveled
    ]
    steps = numbers.planes("<f4", outputs).astype(np.float32)
    values = numbers.planes("<f4", floats).astype(np.float32)
    codes = np.empty(0, np.int64)
    if leveled:
        contexts = _joined([contexts_of(f, e.shape) for f, e in zip(forecasts, leveled, strict=True)])
        codes = decode_symbols(packed.codes, contexts, table) - packed.most
    elif packed.codes:
        raise FormatError("wire: codes without a tensor that they belong to")
    tensors: dict[str, Float32] = {}
    at = {True: 0, False: 0}
    step_at = 0
    for entry in packed.entries:
        begin = at[entry.leveled]
        at[entry.leveled] = end = begin + math.prod(entry.shape)
        if entry.leveled:
            levels = codes[begin:end].astype(np.int32).reshape(entry.shape)
            tensors[entry.name] = weights_of(Levels(levels, steps[step_at : step_at + entry.shape[0]]))
            step_at += entry.shape[0]
        else:
            tensors[entry.name] = values[begin:end].reshape(entry.shape)
    return tensors


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

    def planes(self, dtype: str, count: int) -> Array:
        size = np.dtype(dtype).itemsize
        bytes_of = self.plain(np.uint8, count * size).reshape(size, count)
        return np.ascontiguousarray(bytes_of.T).reshape(-1).view(dtype)


def _planes(values: Array) -> bytes:
    """First all lowest bytes, then all second ones: like bytes stand together."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat.view(np.uint8).reshape(len(flat), flat.itemsize).T.tobytes()


def _joined(parts: Sequence[Array]) -> Int64:
    return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)
