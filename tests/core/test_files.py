"""Whole files or none: atomic writing, private writing, bounded reading."""

from __future__ import annotations

import errno
import os
import resource
import stat
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from emberfleet.core.errors import FormatError, StorageError
from emberfleet.core.files import read_limited, write_atomically, write_private


@pytest.fixture
def small_files_only() -> Iterator[int]:
    """The system refuses to grow any file beyond this many bytes, as a full disk would."""
    limit = 4096
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"hello")
    assert read_limited(tmp_path / "a", 5) == b"hello"


def test_pieces_are_written_in_order(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", (bytes([i]) for i in range(5)))
    assert (tmp_path / "a").read_bytes() == bytes(range(5))


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a much longer old text")
    write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "a", b"", mode=0o644)
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "a") == 0o644


def test_a_write_that_fails_half_way_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, small_files_only: int
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(StorageError, match="cannot write"):
        write_atomically(tmp_path / "a", [b"x" * small_files_only, b"y"])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_full_disk_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        write_atomically(tmp_path / "a", b"x")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_source_passes_through_and_leaves_nothing(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"first"
        raise OSError("the source broke")

    with pytest.raises(OSError, match="the source broke"):
        write_atomically(tmp_path / "a", pieces())
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_flushed_before_its_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        seen.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        seen.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_atomically(tmp_path / "a", b"x")
    assert seen == ["file", "rename", "folder"]


@pytest.mark.parametrize(("code", "refused"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_flush_folders_is_no_error_but_a_broken_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, refused: bool
) -> None:
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    if refused:
        with pytest.raises(StorageError, match="Input/output error"):
            write_atomically(tmp_path / "a", b"x")
    else:
        write_atomically(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"


def test_a_private_file_is_private_from_its_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    write = os.write

    def noted_write(descriptor: int, data: bytes) -> int:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", noted_write)
    before = os.umask(0)
    try:
        write_private(tmp_path / "key", b"secret")
    finally:
        os.umask(before)
    assert modes == [0o600]
    assert mode_of(tmp_path / "key") == 0o600


def test_a_missing_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        write_atomically(tmp_path / "missing" / "a", b"x")


def test_a_file_over_the_limit_names_both_sizes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123456")
    with pytest.raises(FormatError, match="6 bytes, expected at most 5"):
        read_limited(tmp_path / "a", 5)


def test_a_small_file_takes_little_memory_whatever_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"small")
    tracemalloc.start()
    try:
        assert read_limited(tmp_path / "a", 1 << 30) == b"small"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_grows_while_it_is_read_is_read_whole_or_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for limit in (100_000, 99_999):
        writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(bytes(100_000),))
        writer.start()
        if limit == 100_000:
            assert read_limited(tmp_path / "pipe", limit) == bytes(100_000)
        else:
            with pytest.raises(FormatError, match="expected at most 99999"):
                read_limited(tmp_path / "pipe", limit)
        writer.join()


def test_a_file_that_hides_its_size_is_still_bounded() -> None:
    with pytest.raises(FormatError, match="expected at most 100"):
        read_limited("/dev/zero", 100)


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_cannot_be_read_is_a_storage_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        read_limited(tmp_path / name, 10)
