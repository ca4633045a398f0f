"""Reading a data file front to back, gzip or not, never more than its header promises.

Every failure is a `DataError` that names the file and the offset in the unpacked bytes. The caller
asks for a number of bytes it has already compared with a limit, so a file that unpacks to far more
than it should (a "gzip bomb") is left after the bytes that were asked for.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from emberfleet.core.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
CHUNK_BYTES = 1 << 20


class PackedReader:
    """A file opened for reading in order; unpacks gzip when the file starts with gzip's magic."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        """Open `path`; more than `limit_bytes` unpacked bytes are refused.

        Raises:
            DataError: The file is missing or not readable.
        """
        self.path = path
        self.offset = 0
        self._limit_bytes = limit_bytes
        try:
            self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        self._stream: BinaryIO = self._file
        try:
            packed = self._file.read(2) == GZIP_MAGIC
            self._file.seek(0)
        except OSError as error:
            self._file.close()
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        if packed:
            self._stream = cast("BinaryIO", gzip.GzipFile(fileobj=self._file, mode="rb"))

    def __enter__(self) -> PackedReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._stream is not self._file:
            self._stream.close()
        self._file.close()

    def read(self, count: int) -> bytes:
        """Up to `count` bytes, fewer only at the end of the file.

        Raises:
            DataError: The gzip stream is damaged or ends early, or the limit is passed.
        """
        pieces = []
        while count > 0:
            try:
                piece = self._stream.read(min(count, CHUNK_BYTES))
            except EOFError as error:
                raise DataError(
                    f"{self.path}: truncated; the gzip stream ends early, after byte {self.offset} of the "
                    "unpacked data"
                ) from error
            except (zlib.error, OSError) as error:
                raise DataError(
                    f"{self.path}: the gzip stream is damaged after byte {self.offset} of the unpacked "
                    f"data: {error}"
                ) from error
            if not piece:
                break
            self.offset += len(piece)
            if self.offset > self._limit_bytes:
                raise DataError(f"{self.path}: unpacks to more than {self._limit_bytes} bytes, refused")
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def read_exactly(self, count: int, what: str) -> bytes:
        """`count` bytes that hold `what`.

        Raises:
            DataError: The file ends before, or is damaged.
        """
        start = self.offset
        data = self.read(count)
        if len(data) < count:
            raise DataError(
                f"{self.path}: ends at byte {self.offset}, expected {count} bytes of {what} from byte {start}"
            )
        return data

    def expect_end(self) -> None:
        """Check that nothing follows.

        Raises:
            DataError: There is more; or the gzip stream's own check sum fails.
        """
        end = self.offset
        if self.read(1):
            raise DataError(f"{self.path}: data go on after byte {end}, where the file should end")

    def skip_rest(self) -> None:
        """Read to the end without keeping anything, so that gzip's own check sum is compared.

        Raises:
            DataError: As `read`.
        """
        while self.read(CHUNK_BYTES):
            pass
