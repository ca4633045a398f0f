from __future__ import annotations

import struct
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberfleet.converters.tflite.metadata import append_files
from emberfleet.converters.tflite.metadata_reader import MAX_FILE_BYTES, read_metadata
from emberfleet.converters.tflite.reader import summarize_tflite
from emberfleet.core.errors import FormatError

GOLDEN = (Path(__file__).resolve().parents[2] / "golden" / "mobile_int8.tflite").read_bytes()
BUFFER = GOLDEN.index(b"M001") - 4
ZIP = GOLDEN.index(b"PK\x03\x04")


def metadata_of(data: bytes) -> bytes:
    """The metadata buffer and what follows: offsets in it only point on."""
    return data[BUFFER:ZIP]


@settings(max_examples=400, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(0, ZIP - BUFFER - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_buffer_is_a_format_error_or_harmless(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(metadata_of(GOLDEN))
    for place, value in changes:
        damaged[place] = value
    try:
        read_metadata(bytes(damaged), GOLDEN)
    except FormatError:
        return


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(ZIP, len(GOLDEN) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_zip_is_a_format_error_or_harmless(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(GOLDEN)
    for place, value in changes:
        damaged[place] = value
    try:
        summarize_tflite(bytes(damaged))
    except FormatError:
        return


def test_a_zip_that_was_cut_off_is_noticed() -> None:
    with pytest.raises(FormatError, match=r"labels\.txt"):
        summarize_tflite(GOLDEN[:ZIP])


def test_labels_that_are_not_in_the_zip_are_noticed() -> None:
    with pytest.raises(FormatError, match="not in the zip"):
        summarize_tflite(append_files(GOLDEN[:ZIP], {"other.txt": b"a\n"}))


def test_labels_that_unpack_to_too_much_are_refused() -> None:
    target = BytesIO(GOLDEN[:ZIP])
    with zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", b"a\n" * (MAX_FILE_BYTES // 2 + 1))
    with pytest.raises(FormatError, match="holds more than"):
        summarize_tflite(target.getvalue())


def test_another_identifier_is_refused() -> None:
    with pytest.raises(FormatError, match="M001"):
        read_metadata(metadata_of(GOLDEN).replace(b"M001", b"M999"), GOLDEN)


def test_a_list_longer_than_the_buffer_is_refused() -> None:
    buffer = bytearray(metadata_of(GOLDEN))
    text = buffer.index(b"A. Maker")
    buffer[text - 4 : text] = struct.pack("<I", 1 << 31)
    with pytest.raises(FormatError, match="a list of"):
        read_metadata(bytes(buffer), GOLDEN)
