"""TensorFlow Lite Metadata read from any .tflite: every offset is checked before it is followed."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import Final

from emberfleet.converters.tflite.metadata import AXIS_LABELS, IDENTIFIER, NORMALIZATION
from emberfleet.core.errors import FormatError

MAX_ITEMS: Final = 1 << 10
"""Most entries of any list that are looked at."""
MAX_TEXT_BYTES: Final = 1 << 16
MAX_FILE_BYTES: Final = 16 << 20
"""Largest labels file: 32768 labels of 100 characters of four bytes, and more."""


@dataclass(frozen=True, slots=True)
class TfliteMetadata:
    """What the metadata of a .tflite states; texts are empty and lists `()` where it says nothing."""

    name: str
    description: str
    version: str
    author: str
    licence: str
    min_parser_version: str
    mean: tuple[float, ...]
    """Of the first input: read = (value - mean) / std."""
    std: tuple[float, ...]
    files: tuple[str, ...]
    """Files that stand in the zip behind the model."""
    labels: tuple[str, ...]
    """Of the first output's last axis."""


def read_metadata(buffer: bytes, data: bytes) -> TfliteMetadata:
    """Read the metadata buffer of the .tflite `data`, and the labels behind the model.

    Raises:
        FormatError: the metadata or the zip is damaged, or names a labels file that is not there.
    """
    if buffer[4:8] != IDENTIFIER:
        raise FormatError(".tflite metadata: bytes 4 to 8 are not 'M001'")
    root = _Table(buffer, _follow(buffer, 0))
    subgraph = root.tables(3)[:1]
    options = [
        unit.table(1)
        for tensor in (subgraph[0].tables(2)[:1] if subgraph else [])
        for unit in tensor.tables(4)
        if unit.byte(0) == NORMALIZATION
    ][:1]
    labels = [
        entry.text(0)
        for tensor in (subgraph[0].tables(3)[:1] if subgraph else [])
        for entry in tensor.tables(6)
        if entry.byte(2) == AXIS_LABELS
    ][:1]
    files, contents = _read_files(data, labels)
    return TfliteMetadata(
        name=root.text(0),
        description=root.text(1),
        version=root.text(2),
        author=root.text(4),
        licence=root.text(5),
        min_parser_version=root.text(7),
        mean=options[0].floats(0) if options else (),
        std=options[0].floats(1) if options else (),
        files=files,
        labels=tuple(contents[0].decode("utf-8", "replace").splitlines()) if contents else (),
    )


def _read_files(data: bytes, wanted: list[str]) -> tuple[tuple[str, ...], list[bytes]]:
    """Names of the files behind the model, and the contents of the wanted ones."""
    stream = io.BytesIO(data)
    if not zipfile.is_zipfile(stream):
        names: tuple[str, ...] = ()
    else:
        try:
            with zipfile.ZipFile(stream) as archive:
                names = tuple(archive.namelist())
                if len(names) > MAX_ITEMS:
                    raise FormatError(f".tflite: {len(names)} files behind it, expected at most {MAX_ITEMS}")
                return names, [_read_file(archive, name) for name in wanted]
        except (zipfile.BadZipFile, zlib.error, struct.error, OSError, ValueError, EOFError) as error:
            raise FormatError(f".tflite: the zip behind the model is damaged: {error}") from error
        except (NotImplementedError, RuntimeError) as error:
            raise FormatError(f".tflite: the zip behind the model cannot be read: {error}") from error
    if wanted:
        raise FormatError(f".tflite metadata: '{wanted[0]}' is named, but no zip stands behind the model")
    return names, []


def _read_file(archive: zipfile.ZipFile, name: str) -> bytes:
    if name not in archive.namelist():
        raise FormatError(f".tflite metadata: '{name}' is named, but it is not in the zip behind the model")
    with archive.open(name) as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise FormatError(f".tflite: '{name}' holds more than {MAX_FILE_BYTES} bytes")
    return content


class _Table:
    """A table of a flatbuffer; fields by their slots."""

    def __init__(self, buffer: bytes, at: int) -> None:
        self.buffer, self.at = buffer, at
        start = at - _number(buffer, at, "<i")
        size = _number(buffer, start, "<H")
        if not 4 <= size <= len(buffer) - start:
            raise FormatError(f".tflite metadata: a table of fields of {size} bytes at byte {start}")
        self.fields = struct.unpack_from(f"<{(size - 4) // 2}H", buffer, start + 4)

    def byte(self, slot: int) -> int:
        at = self._place(slot)
        return _number(self.buffer, at, "<B") if at else 0

    def text(self, slot: int) -> str:
        at = self._place(slot)
        if not at:
            return ""
        start = _follow(self.buffer, at)
        length = _counted(self.buffer, start, 1, MAX_TEXT_BYTES)
        return self.buffer[start + 4 : start + 4 + length].decode("utf-8", "replace")

    def floats(self, slot: int) -> tuple[float, ...]:
        at = self._place(slot)
        if not at:
            return ()
        start = _follow(self.buffer, at)
        return struct.unpack_from(f"<{_counted(self.buffer, start, 4, MAX_ITEMS)}f", self.buffer, start + 4)

    def table(self, slot: int) -> _Table:
        at = self._place(slot)
        if not at:
            raise FormatError(f".tflite metadata: a table at byte {self.at} lacks its field {slot}")
        return _Table(self.buffer, _follow(self.buffer, at))

    def tables(self, slot: int) -> list[_Table]:
        at = self._place(slot)
        if not at:
            return []
        start = _follow(self.buffer, at)
        count = _counted(self.buffer, start, 4, MAX_ITEMS)
        return [_Table(self.buffer, _follow(self.buffer, start + 4 + 4 * place)) for place in range(count)]

    def _place(self, slot: int) -> int:
        """Where a field lies; 0 where it does not stand."""
        offset = self.fields[slot] if slot < len(self.fields) else 0
        return self.at + offset if offset else 0


def _follow(buffer: bytes, at: int) -> int:
    return at + _number(buffer, at, "<I")


def _counted(buffer: bytes, at: int, size: int, limit: int) -> int:
    """The length of a vector of items of `size` bytes, all of which lie in the buffer."""
    count = _number(buffer, at, "<I")
    if count > min(limit, (len(buffer) - at - 4) // size):
        raise FormatError(f".tflite metadata: a list of {count} items at byte {at}")
    return count


def _number(buffer: bytes, at: int, form: str) -> int:
    if not 0 <= at <= len(buffer) - struct.calcsize(form):
        raise FormatError(f".tflite metadata: byte {at} of {len(buffer)} is pointed at")
    value: int = struct.unpack_from(form, buffer, at)[0]
    return value
