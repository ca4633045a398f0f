"""Tensors by name in the safetensors format, read as hostile bytes.

A file is an 8-byte little-endian length, that many bytes of JSON, then the numbers. The JSON maps
each name to ``{"dtype", "shape", "data_offsets": [begin, end]}``; ``__metadata__`` may map text to
text. The ranges must tile the data exactly: no hole, no overlap, nothing behind the last.

What `encode_tensors` writes depends only on the tensors and the metadata, not on the order of the
mapping: wider types first, then by name, as the safetensors library does, so that every tensor
lies at a multiple of its item size. The format is specified in docs/formats.md, section Tensors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np

from emberfleet.core.arrays import Array
from emberfleet.core.errors import FormatError

MAX_FILE_BYTES: Final = 256 * 1024 * 1024
MAX_HEADER_BYTES: Final = 4 * 1024 * 1024
MAX_TENSORS: Final = 16384
MAX_AXES: Final = 16
MAX_NAME_CHARACTERS: Final = 512
MAX_ELEMENTS: Final = 1 << 40
"""Product of the axes, zeros left out: an empty tensor cannot claim axes nobody could hold."""

DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
_CODES: Final = {dtype: code for code, dtype in DTYPES.items()}
_METADATA: Final = "__metadata__"
_INTEGER: Final = re.compile(r"-?[0-9]{1,20}")


def encode_tensors(tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """Write tensors as safetensors, the same bytes whatever the mapping's order.

    Raises:
        FormatError: A dtype the format does not hold here, or a name, metadata or size over a limit.
    """
    arrays = {name: _storable(name, array) for name, array in tensors.items()}
    header: dict[str, Any] = {}
    if metadata:
        header[_METADATA] = dict(sorted(metadata.items()))
    begin = 0
    pieces: list[bytes] = []
    for name in sorted(arrays, key=lambda name: (-arrays[name].itemsize, name)):
        array = arrays[name]
        end = begin + array.nbytes
        offsets = [begin, end]
        header[name] = {"dtype": _CODES[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        pieces.append(array.tobytes())
        begin = end
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise FormatError("tensors: a name or metadata text is not valid Unicode") from error
    text += b" " * (-len(text) % 8)
    _check_limits(header, len(text))
    return b"".join((len(text).to_bytes(8, "little"), text, *pieces))


def decode_tensors(data: bytes, max_bytes: int = MAX_FILE_BYTES) -> dict[str, Array]:
    """Read safetensors strictly, in the order of the file's header.

    Returns:
        Copies in the machine's byte order that the caller owns and may write to; `data` is not kept.

    Raises:
        FormatError: Whatever is wrong with the bytes, and nothing else.
    """
    return decode_tensors_and_metadata(data, max_bytes)[0]


def decode_tensors_and_metadata(
    data: bytes, max_bytes: int = MAX_FILE_BYTES
) -> tuple[dict[str, Array], dict[str, str]]:
    """Read safetensors as `decode_tensors` does, and the texts of ``__metadata__`` with them."""
    if len(data) > max_bytes:
        raise FormatError(f"tensors: {len(data)} bytes, expected at most {max_bytes}")
    if len(data) < 8:
        raise FormatError(f"tensors: {len(data)} bytes, expected at least the 8 of the header's length")
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise FormatError(f"tensors: header of {length} bytes, expected at most {MAX_HEADER_BYTES}")
    if length > len(data) - 8:
        raise FormatError(f"tensors: header of {length} bytes, but only {len(data) - 8} follow its length")
    header = _parse_header(data[8 : 8 + length])
    _check_limits(header, length)
    metadata = _checked_metadata(header.pop(_METADATA, {}))
    entries = {name: _checked_entry(name, entry) for name, entry in header.items()}
    _check_tiling(entries, len(data) - 8 - length)
    body = memoryview(data)[8 + length :]
    tensors: dict[str, Array] = {}
    for name, (dtype, shape, begin, end) in entries.items():
        values = np.frombuffer(body[begin:end], dtype)
        tensors[name] = values.astype(dtype.newbyteorder("="), copy=True).reshape(shape)
    return tensors, metadata


Entry = tuple[np.dtype[Any], tuple[int, ...], int, int]


def _storable(name: str, array: Array) -> Array:
    if not isinstance(name, str) or name == _METADATA:
        raise FormatError(f"tensors: {name!r} cannot name a tensor")
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _CODES:
        raise FormatError(f"tensor '{name}': dtype is {array.dtype}, expected one of {', '.join(DTYPES)}")
    return array.astype(dtype, copy=False)


def _check_limits(header: Mapping[str, Any], length: int) -> None:
    if length > MAX_HEADER_BYTES:
        raise FormatError(f"tensors: header of {length} bytes, expected at most {MAX_HEADER_BYTES}")
    if len(header) > MAX_TENSORS:
        raise FormatError(f"tensors: {len(header)} names, expected at most {MAX_TENSORS}")
    for name in header:
        if len(name) > MAX_NAME_CHARACTERS:
            raise FormatError(
                f"tensors: a name of {len(name)} characters, expected {MAX_NAME_CHARACTERS} at most"
            )


def _parse_header(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise FormatError("tensors: the header does not begin with '{'")
    try:
        header = json.loads(
            text.rstrip(b" ").decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_int=_parse_integer,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise FormatError(f"tensors: the header is not JSON: {error}") from error
    return cast("dict[str, Any]", header)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise FormatError(f"tensors: {key!r} stands twice in the header")
        found[key] = value
    return found


def _parse_integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise FormatError(f"tensors: a number of {len(text)} digits in the header")
    return int(text)


def _refuse_constant(text: str) -> Any:
    raise FormatError(f"tensors: {text} in the header")


def _checked_metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise FormatError("tensors: __metadata__ must map text to text")
    return value


def _checked_entry(name: str, entry: Any) -> Entry:
    """Dtype, shape and byte range of one header entry, consistent with each other."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"tensor {name!r}: expected exactly dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise FormatError(f"tensor {name!r}: dtype is {code!r}, expected one of {', '.join(DTYPES)}")
    if not _are_naturals(shape) or len(shape) > MAX_AXES:
        raise FormatError(f"tensor {name!r}: shape must be at most {MAX_AXES} integers of 0 or more")
    if not _are_naturals(offsets) or len(offsets) != 2:
        raise FormatError(f"tensor {name!r}: data_offsets must be two integers of 0 or more")
    if math.prod(axis for axis in shape if axis) > MAX_ELEMENTS:
        raise FormatError(f"tensor {name!r}: shape {shape} holds more than {MAX_ELEMENTS} elements")
    begin, end = offsets
    size = math.prod(shape) * DTYPES[code].itemsize
    if end - begin != size:
        raise FormatError(f"tensor {name!r}: {end - begin} bytes of data, expected {size} for {code} {shape}")
    return DTYPES[code], tuple(shape), begin, end


def _are_naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_tiling(entries: Mapping[str, Entry], available: int) -> None:
    """The ranges, in order, must cover the data from its first byte to its last, each byte once."""
    expected = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != expected:
            fault = "a hole before it" if begin > expected else "an overlap with the one before"
            raise FormatError(f"tensor {name!r}: data begins at {begin}, expected {expected}: {fault}")
        expected = end
    if expected != available:
        raise FormatError(f"tensors: {available} bytes of data, expected {expected}")
