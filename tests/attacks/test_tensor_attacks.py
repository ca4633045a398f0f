"""Every way we know to break a file of tensors, each with the error it must give."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from emberfleet.core.errors import FormatError
from emberfleet.core.tensors import MAX_HEADER_BYTES, MAX_TENSORS, decode_tensors


def framed(header: bytes, body: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + body


def one(body: bytes = bytes(8), **changes: Any) -> bytes:
    """A file with one tensor 'a' of two float32, changed."""
    entry: dict[str, Any] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return framed(json.dumps({"a": {**entry, **changes}}).encode(), body)


def two(first: tuple[int, int], second: tuple[int, int], size: int) -> bytes:
    """A file with the tensors 'a' and 'b' of bytes at these offsets."""
    header = {
        name: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
        for name, (begin, end) in {"a": first, "b": second}.items()
    }
    return framed(json.dumps(header).encode(), bytes(size))


ENTRY = b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'

CASES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes, expected at least the 8"),
    "shorter than its length": (bytes(7), "7 bytes, expected at least the 8"),
    "an empty header": (bytes(8), "does not begin with '{'"),
    "a header beyond the file": (b"\x64" + bytes(7) + b"{}", "header of 100 bytes, but only 2 follow"),
    "a header over the limit": (
        (MAX_HEADER_BYTES + 1).to_bytes(8, "little"),
        f"header of {MAX_HEADER_BYTES + 1} bytes, expected at most",
    ),
    "a header length of 2**64 - 1": (b"\xff" * 8 + b"{}", "header of 18446744073709551615 bytes"),
    "a header that begins with a space": (framed(b" {}"), "does not begin with '{'"),
    "a header that is a list": (framed(b"[]"), "does not begin with '{'"),
    "a header that is cut off": (framed(b'{"a":'), "the header is not JSON"),
    "a header with more behind it": (framed(b"{} {}"), "the header is not JSON"),
    "a header padded with zeros": (framed(b"{}\0\0"), "the header is not JSON"),
    "a header that is not UTF-8": (framed(b'{"\xff":1}'), "the header is not JSON"),
    "a header with a byte order mark": (framed(b"\xef\xbb\xbf{}"), "does not begin with '{'"),
    "a header nested deep": (framed(b'{"a":' + b"[" * 100_000), "the header is not JSON"),
    "a number of many digits": (framed(b'{"a":' + b"9" * 5000 + b"}"), "a number of 5000 digits"),
    "not a number": (framed(b'{"a":NaN}'), "NaN in the header"),
    "a name twice": (framed(b'{"a":' + ENTRY + b',"a":' + ENTRY + b"}"), "'a' stands twice"),
    "a field twice": (
        framed(b'{"a":{"dtype":"U8","dtype":"F32","shape":[0],"data_offsets":[0,0]}}'),
        "'dtype' stands twice",
    ),
    "metadata twice": (framed(b'{"__metadata__":{},"__metadata__":{}}'), "'__metadata__' stands twice"),
    "metadata that is no object": (framed(b'{"__metadata__":[]}'), "__metadata__ must map text to text"),
    "metadata with a number": (framed(b'{"__metadata__":{"a":1}}'), "__metadata__ must map text to text"),
    "an entry that is no object": (framed(b'{"a":1}'), "expected exactly dtype, shape and data_offsets"),
    "an entry with more to say": (one(more=1), "expected exactly dtype, shape and data_offsets"),
    "an unknown dtype": (one(dtype="F8"), "dtype is 'F8', expected one of F64, F32"),
    "a dtype that is a list": (one(dtype=["F32"]), "dtype is"),
    "a shape that is a number": (one(shape=2), "shape must be"),
    "a negative axis": (one(shape=[-1, -2]), "shape must be"),
    "an axis that is true": (one(shape=[2, True]), "shape must be"),
    "an axis with a point": (one(shape=[2.0]), "shape must be"),
    "17 axes": (one(shape=[2] + [1] * 16), "shape must be at most 16"),
    "one offset": (one(data_offsets=[8]), "data_offsets must be"),
    "a negative offset": (one(data_offsets=[-8, 0]), "data_offsets must be"),
    "offsets the wrong way round": (one(data_offsets=[8, 0]), "-8 bytes of data, expected 8"),
    "a shape larger than its range": (one(shape=[3]), "8 bytes of data, expected 12"),
    "a shape that wraps around 64 bits": (one(shape=[1 << 32, 1 << 32]), "holds more than"),
    "an empty shape with an absurd axis": (
        one(b"", shape=[0, 1 << 62, 1 << 62], data_offsets=[0, 0]),
        "holds more than",
    ),
    "a range beyond the file": (one(bytes(4)), "4 bytes of data, expected 8"),
    "bytes behind the last tensor": (one(bytes(9)), "9 bytes of data, expected 8"),
    "a hole in front": (two((1, 3), (3, 4), 4), "data begins at 1, expected 0: a hole"),
    "a hole between": (two((0, 2), (3, 4), 4), "data begins at 3, expected 2: a hole"),
    "an overlap": (two((0, 3), (2, 4), 4), "data begins at 2, expected 3: an overlap"),
    "the same range twice": (two((0, 4), (0, 4), 4), "data begins at 0, expected 4: an overlap"),
    "too many tensors": (
        framed(json.dumps({str(i): 0 for i in range(MAX_TENSORS + 1)}).encode()),
        f"{MAX_TENSORS + 1} names, expected at most {MAX_TENSORS}",
    ),
    "a name of 513 characters": (framed(b'{"' + b"x" * 513 + b'":' + ENTRY + b"}"), "a name of 513"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_attack_is_refused_with_its_own_words(name: str) -> None:
    data, text = CASES[name]
    with pytest.raises(FormatError) as caught:
        decode_tensors(data)
    assert text in str(caught.value)


def test_the_file_that_the_attacks_start_from_is_good() -> None:
    assert decode_tensors(one())["a"].tolist() == [0, 0]
    assert decode_tensors(two((0, 2), (2, 4), 4)).keys() == {"a", "b"}


def test_a_claim_of_a_terabyte_allocates_nothing() -> None:
    data = one(shape=[1 << 38], data_offsets=[0, 1 << 40])
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="8 bytes of data, expected 1099511627776"):
            decode_tensors(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
