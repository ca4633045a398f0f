"""The safetensors codec against itself, against the library, and against arbitrary bytes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from emberfleet.core.arrays import Array
from emberfleet.core.errors import FormatError
from emberfleet.core.tensors import (
    DTYPES,
    MAX_HEADER_BYTES,
    decode_tensors,
    decode_tensors_and_metadata,
    encode_tensors,
)

SHAPES = array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
ARRAYS = st.sampled_from(sorted(DTYPES.values(), key=str)).flatmap(lambda dtype: arrays(dtype, SHAPES))
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda name: name != "__metadata__"
)
TENSORS = st.dictionaries(NAMES, ARRAYS, max_size=6)


def assert_same(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


@given(TENSORS, st.dictionaries(NAMES, st.text(st.characters(exclude_categories=["Cs"])), max_size=3))
def test_decode_of_encode_is_identity(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    found, texts = decode_tensors_and_metadata(encode_tensors(tensors, metadata))
    assert_same(found, tensors)
    assert texts == metadata


@given(TENSORS)
def test_the_library_reads_what_we_write(tensors: dict[str, Array]) -> None:
    assert_same(safetensors.numpy.load(encode_tensors(tensors)), tensors)


@given(TENSORS)
def test_we_read_what_the_library_writes(tensors: dict[str, Array]) -> None:
    data = safetensors.numpy.save({name: np.array(array, ndmin=0) for name, array in tensors.items()})
    assert_same(decode_tensors(data), tensors)


@given(TENSORS)
def test_the_order_of_the_mapping_does_not_matter(tensors: dict[str, Array]) -> None:
    assert encode_tensors(tensors) == encode_tensors(dict(reversed(tensors.items())))


def test_every_tensor_is_aligned_to_its_item_size() -> None:
    tensors: dict[str, Array] = {
        "a": np.zeros(3, np.int8),
        "b": np.zeros(3, np.float64),
        "c": np.zeros(3, np.float16),
    }
    data = encode_tensors(tensors)
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    for entry in json.loads(data[8 : 8 + length]).values():
        assert (8 + length + entry["data_offsets"][0]) % DTYPES[entry["dtype"]].itemsize == 0


def test_what_is_decoded_can_be_written_to_and_keeps_no_hold_of_the_bytes() -> None:
    data = encode_tensors({"a": np.zeros(3, np.float32)})
    first = decode_tensors(data)["a"]
    first[:] = 1
    assert decode_tensors(data)["a"].tolist() == [0, 0, 0]


def test_arrays_that_are_not_contiguous_or_big_endian_are_written_as_their_values() -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3).T
    found = decode_tensors(encode_tensors({"a": array}))["a"]
    assert found.dtype == np.float32
    assert found.tolist() == array.tolist()


@pytest.mark.parametrize("dtype", [np.complex64, np.bool_, np.object_, np.uint16])
def test_a_dtype_without_a_code_is_refused(dtype: Any) -> None:
    with pytest.raises(FormatError, match="tensor 'a': dtype is"):
        encode_tensors({"a": np.zeros(2, dtype)})


@pytest.mark.parametrize("name", ["__metadata__", "x" * 513, "\ud800"])
def test_a_name_the_format_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(FormatError):
        encode_tensors({name: np.zeros(1, np.float32)})


def test_metadata_that_no_reader_would_accept_is_not_written() -> None:
    with pytest.raises(FormatError, match=f"expected at most {MAX_HEADER_BYTES}"):
        encode_tensors({}, {"a": "x" * MAX_HEADER_BYTES})


def test_a_limit_in_bytes_is_kept() -> None:
    data = encode_tensors({"a": np.zeros(100, np.float32)})
    with pytest.raises(FormatError, match=f"{len(data)} bytes, expected at most 100"):
        decode_tensors(data, max_bytes=100)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES, "BF16", ""]) | JSON,
        "shape": st.lists(st.integers(-2, 2**70), max_size=4) | JSON,
        "data_offsets": st.lists(st.integers(-2, 40), min_size=2, max_size=2) | JSON,
    }
)


def framed(header: object, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@settings(max_examples=300)
@given(
    st.binary(max_size=200)
    | st.builds(framed, JSON, st.binary(max_size=40))
    | st.builds(framed, st.dictionaries(st.text(max_size=5), ENTRY, max_size=3), st.binary(max_size=40))
)
def test_whatever_the_bytes_only_a_format_error_is_raised(data: bytes) -> None:
    try:
        found = decode_tensors(data)
    except FormatError:
        return
    assert_same(decode_tensors(encode_tensors(found)), found)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_file_raises_a_format_error_or_decodes_within_its_size(source: st.DataObject) -> None:
    tensors: dict[str, Array] = {"a/weight": np.ones((2, 3), np.float32), "b": np.ones(5, np.int8)}
    data = bytearray(encode_tensors(tensors))
    for _ in range(source.draw(st.integers(1, 4))):
        data[source.draw(st.integers(0, len(data) - 1))] = source.draw(st.integers(0, 255))
    try:
        found = decode_tensors(bytes(data))
    except FormatError:
        return
    assert sum(array.nbytes for array in found.values()) <= len(data)
