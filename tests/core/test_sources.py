"""Bytes read in pieces, from memory and from files."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import pytest

from emberfleet.core.errors import FormatError, StorageError
from emberfleet.core.sources import HeldBytes, OpenFile, Source, open_source

DATA = b"0123456789"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(params=["held", "file"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    if request.param == "held":
        return HeldBytes(DATA)
    (tmp_path / "a").write_bytes(DATA)
    return open_source(tmp_path / "a", len(DATA))


@pytest.mark.parametrize(
    ("at", "size", "found"), [(0, 10, DATA), (3, 2, b"34"), (8, 5, b"89"), (10, 1, b""), (99, 1, b"")]
)
def test_reading_gives_what_there_is(source: Source, at: int, size: int, found: bytes) -> None:
    assert source.size_bytes == 10
    assert source.read(at, size) == found


def test_a_file_that_another_takes_the_name_of_is_still_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(DATA)
    source = open_source(tmp_path / "a", 100)
    (tmp_path / "b").write_bytes(b"other bytes")
    (tmp_path / "b").replace(tmp_path / "a")
    assert source.read(0, 10) == DATA


def test_a_file_nobody_holds_is_closed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(DATA)
    gc.collect()
    before = open_files()
    source = open_source(tmp_path / "a", 100)
    assert open_files() == before + 1
    del source
    assert open_files() == before


def test_a_file_over_the_limit_names_both_sizes_and_is_closed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(DATA)
    before = open_files()
    with pytest.raises(FormatError, match="10 bytes, expected at most 9"):
        open_source(tmp_path / "a", 9)
    gc.collect()
    assert open_files() == before


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_cannot_be_read_is_a_storage_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        open_source(tmp_path / name, 10)


def test_a_file_that_fails_later_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read gone"):
        OpenFile(Path("gone"), os.open(tmp_path, os.O_RDONLY), 10).read(0, 10)


def test_a_pipe_is_read_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(DATA))
    writer.start()
    source = open_source(tmp_path / "pipe", 100)
    writer.join()
    assert source.size_bytes == 10
    assert source.read(4, 3) == b"456"
