"""Bytes that are read in pieces: those of a file, or some held in memory.

A file is opened once and read by position, so what is read is one file even where another takes its
name meanwhile. What it holds can still change: whoever relies on bytes checks those that were read.
"""

from __future__ import annotations

import os
import stat
import weakref
from typing import TYPE_CHECKING, Final, Protocol

from emberfleet.core.digest import Data
from emberfleet.core.errors import FormatError
from emberfleet.core.files import storage_errors

if TYPE_CHECKING:
    from pathlib import Path


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

    def __init__(self, path: str | Path, descriptor: int, size_bytes: int) -> None:
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
    with storage_errors("read", path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        found = os.fstat(descriptor)
        source: Source = OpenFile(path, descriptor, found.st_size)
        if not stat.S_ISREG(found.st_mode):
            with open(descriptor, "rb", closefd=False) as stream:
                source = HeldBytes(stream.read(limit + 1))
    if source.size_bytes > limit:
        raise FormatError(f"{path}: {source.size_bytes} bytes, expected at most {limit}")
    return source
