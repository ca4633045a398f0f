"""Bytes that are read in pieces: those of a file, or some held in memory.

A file is opened once and read by position, so what is read is one file even where another takes its
name meanwhile. What it holds can still change: whoever relies on bytes checks those that were read.
"""

from __future__ import annotations

import os
import stat
import weakref
from pathlib import Path
from typing import Final, Protocol

from emberfleet.core.digest import Data
from emberfleet.core.errors import FormatError
from emberfleet.core.files import read_limited, storage_errors


class Source(Protocol):
    """Bytes of a known number."""

    @property
    def size_bytes(self) -> int:
        """How many."""

    def read(self, at: int, size_bytes: int) -> Data:
        """The bytes from a place on: as many as asked for, or as there are."""


class HeldBytes:
    """Bytes in memory."""

    __slots__ = ("_data", "size_bytes")

    def __init__(self, data: bytes) -> None:
        self.size_bytes: Final = len(data)
        self._data: Final = memoryview(data)

    def read(self, at: int, size_bytes: int) -> Data:
        """See `Source.read`; no copy."""
        return self._data[at : at + size_bytes]


class OpenFile:
    """A file that stays open as long as this object lives."""

    __slots__ = ("__weakref__", "_descriptor", "_path", "size_bytes")

    def __init__(self, path: Path, descriptor: int, size_bytes: int) -> None:
        self.size_bytes: Final = size_bytes
        self._path: Final = path
        self._descriptor: Final = descriptor
        weakref.finalize(self, os.close, descriptor)

    def read(self, at: int, size_bytes: int) -> Data:
        """See `Source.read`.

        Raises:
            StorageError: The file cannot be read.
        """
        with storage_errors("read", self._path):
            return os.pread(self._descriptor, size_bytes, at)


def open_source(path: str | Path, limit: int) -> Source:
    """Open a file of at most `limit` bytes; what is no regular file (a pipe) is read at once.

    Raises:
        FormatError: The file is larger than `limit`.
        StorageError: The file is missing, a folder, or not readable.
    """
    source = Path(path)
    with storage_errors("read", source):
        if not stat.S_ISREG(source.stat().st_mode):
            return HeldBytes(read_limited(source, limit))
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        file = OpenFile(source, descriptor, os.fstat(descriptor).st_size)
    if file.size_bytes > limit:
        raise FormatError(f"{source}: {file.size_bytes} bytes, expected at most {limit}")
    return file
