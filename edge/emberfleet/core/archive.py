"""The container of a bundle: a zip of stored files that has exactly one byte sequence per contents.

Every header is fixed (docs/formats.md, section Bundle), so a reader of this format needs no zip library
and is left no choice, while any zip program still opens the file. What such programs disagree about,
and attackers live on, is refused: compression, encryption, zip64, extra fields, comments, gaps,
overlaps, a local header that says something else than the directory, bytes in front or behind.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from emberfleet.core.digest import Sha256, sha256_hex
from emberfleet.core.errors import FormatError
from emberfleet.core.sources import Source

MAX_ENTRIES: Final = 1024
MAX_NAME_BYTES: Final = 200
PIECE_BYTES: Final = 64 * 1024
"""Of contents that are held at a time while an archive is read."""

_LOCAL: Final = struct.Struct("<4s5H3I2H")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_END: Final = struct.Struct("<4s4H2IH")
_LOCAL_MAGIC: Final = b"PK\x03\x04"
_CENTRAL_MAGIC: Final = b"PK\x01\x02"
_END_MAGIC: Final = b"PK\x05\x06"
_ZIP64_LOCATOR_MAGIC: Final = b"PK\x06\x07"
_ZIP64_EXTRA: Final = b"\x01\x00"
_VERSION: Final = 20
_MADE_BY: Final = 0x0300 | _VERSION
"""Unix, so that the permissions below count."""
_TIME: Final = 0
_DATE: Final = 0x21
"""1980-01-01, the first day a zip can name."""
_PERMISSIONS: Final = 0o100644 << 16
_ENCRYPTED: Final = 1
_WRONG_COUNT: Final = "bundle: the directory does not hold as many files as its end record says"
_16_BITS: Final = 0xFFFF
_32_BITS: Final = 0xFFFFFFFF


def write_archive(entries: Mapping[str, bytes]) -> bytes:
    """Write stored files in the mapping's order; the names must be ASCII and checked before."""
    pieces: list[bytes] = []
    directory: list[bytes] = []
    offset = 0
    for name, data in entries.items():
        label = name.encode("ascii")
        crc = zlib.crc32(data)
        local = _local_header(label, crc, len(data))
        directory.append(_central_header(label, crc, len(data), offset))
        pieces += (local, data)
        offset += len(local) + len(data)
    central = b"".join(directory)
    end = _END.pack(_END_MAGIC, 0, 0, len(entries), len(entries), len(central), offset, 0)
    return b"".join((*pieces, central, end))


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive that was read: where its contents lie, and their SHA-256."""

    start: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Archive:
    """What an archive holds, in the order of the file, and the SHA-256 of the whole."""

    entries: Mapping[str, Entry]
    sha256: str


def read_archive(source: Source) -> Archive:
    """Go through what `write_archive` wrote, from the first byte to the last, each once.

    Of the contents no more than a piece is held at a time. The digests are those of the bytes that were
    checked here: who reads contents again compares with them.

    Raises:
        FormatError: The bytes are anything else than `write_archive` would have written.
    """
    end, count, directory_offset = _read_end(source)
    directory = _read_directory(source, count, directory_offset)
    whole = Sha256()
    entries: dict[str, Entry] = {}
    at = 0
    body_end = 0
    for _ in range(count):
        name, crc, size, at = _read_central(directory, at, body_end)
        if name in entries:
            raise FormatError(f"bundle: '{name}' stands twice in the directory")
        header = _checked_local(source, name, crc, size, body_end)
        start = body_end + len(header)
        body_end = start + size
        if body_end > directory_offset:
            raise FormatError(f"bundle: '{name}' runs into the directory")
        whole.update(header)
        entries[name] = _digested(source, name, crc, start, size, whole)
    if body_end != directory_offset:
        raise FormatError(
            f"bundle: {directory_offset - body_end} bytes between the last file and the directory"
        )
    if at != len(directory):
        raise FormatError(_WRONG_COUNT)
    whole.update(directory)
    whole.update(end)
    return Archive(entries, whole.hexdigest())


def read_contents(source: Source, name: str, entry: Entry) -> bytes:
    """The contents of an entry that `read_archive` has found, if they are still the same.

    Raises:
        FormatError: They have changed.
    """
    data = bytes(source.read(entry.start, entry.size_bytes))
    if sha256_hex(data) != entry.sha256:
        raise FormatError(f"bundle: '{name}' has changed since the bundle was opened; open it again")
    return data


def _digested(source: Source, name: str, crc: int, start: int, size: int, whole: Sha256) -> Entry:
    """Read contents piece by piece into their checksum, their digest and that of the whole."""
    own, found = Sha256(), 0
    for at in range(start, start + size, PIECE_BYTES):
        piece = source.read(at, min(PIECE_BYTES, start + size - at))
        own.update(piece)
        whole.update(piece)
        found = zlib.crc32(piece, found)
    if found != crc:
        raise FormatError(f"bundle: '{name}' does not match its checksum; fetch the file again")
    return Entry(start, size, own.hexdigest())


def _read_end(source: Source) -> tuple[bytes, int, int]:
    """The end record, the number of files and where the directory begins."""
    at = source.size_bytes - _END.size
    end = bytes(source.read(max(at, 0), _END.size))
    if len(end) != _END.size or end[:4] != _END_MAGIC:
        first = max(at - _16_BITS, 0)
        if bytes(source.read(first, max(at, 0) - first)).rfind(_END_MAGIC) >= 0:
            raise FormatError("bundle: bytes behind its end record, expected none")
        raise FormatError("bundle: no end record; the file is truncated or not a bundle")
    fields = _END.unpack(end)
    _, disk, directory_disk, count_here, count, size, offset, comment = fields
    if _16_BITS in (count_here, count) or _32_BITS in (size, offset):
        raise FormatError("bundle: zip64 is not part of the format")
    if source.read(max(at - 20, 0), 4) == _ZIP64_LOCATOR_MAGIC:
        raise FormatError("bundle: zip64 is not part of the format")
    if disk or directory_disk or count_here != count or comment:
        raise FormatError("bundle: an end record with a comment or of several disks")
    if count > MAX_ENTRIES:
        raise FormatError(f"bundle: {count} files, expected at most {MAX_ENTRIES}")
    if offset + size != at:
        raise FormatError(f"bundle: directory at {offset} of {size} bytes, expected it to end at {at}")
    return end, count, offset


def _read_directory(source: Source, count: int, offset: int) -> bytes:
    size = source.size_bytes - _END.size - offset
    if size > count * (_CENTRAL.size + MAX_NAME_BYTES):
        raise FormatError(_WRONG_COUNT)
    return bytes(source.read(offset, size))


def _read_central(data: bytes, at: int, expected_offset: int) -> tuple[str, int, int, int]:
    """One directory entry: name, checksum, size, and where the next entry begins."""
    if at + _CENTRAL.size > len(data) or data[at : at + 4] != _CENTRAL_MAGIC:
        raise FormatError(f"bundle: no directory entry at byte {at} of the directory")
    fields = _CENTRAL.unpack_from(data, at)
    flags, method = fields[3], fields[4]
    crc, packed, size, name_size, extra_size, comment_size = fields[7:13]
    offset = fields[16]
    after = at + _CENTRAL.size + name_size
    label = data[at + _CENTRAL.size : after]
    if not 1 <= len(label) == name_size <= MAX_NAME_BYTES or not label.isascii():
        raise FormatError(
            f"bundle: a file name of {name_size} bytes, expected 1 to {MAX_NAME_BYTES} of ASCII"
        )
    name = label.decode("ascii")
    if flags & _ENCRYPTED:
        raise FormatError(f"bundle: {name!r} is encrypted, expected it stored")
    if method != 0:
        raise FormatError(f"bundle: {name!r} is compressed, expected it stored")
    if _32_BITS in (packed, size, offset) or (extra_size and data[after : after + 2] == _ZIP64_EXTRA):
        raise FormatError("bundle: zip64 is not part of the format")
    if packed != size:
        raise FormatError(f"bundle: {name!r} is stored as {packed} bytes but holds {size}")
    if offset != expected_offset:
        fault = "overlaps the file before" if offset < expected_offset else "leaves a gap before itself"
        raise FormatError(f"bundle: {name!r} begins at {offset}, expected {expected_offset}: it {fault}")
    header = _central_header(label, crc, size, offset)
    if extra_size or comment_size or data[at:after] != header:
        raise FormatError(f"bundle: {name!r} has directory fields that the format does not use")
    return name, crc, size, after


def _checked_local(source: Source, name: str, crc: int, size: int, at: int) -> bytes:
    """The header in front of the contents, once it says what the directory says."""
    header = _local_header(name.encode("ascii"), crc, size)
    if source.read(at, len(header)) != header:
        raise FormatError(f"bundle: the header of {name!r} does not say what the directory says")
    return header


def _local_header(label: bytes, crc: int, size: int) -> bytes:
    fixed = _LOCAL.pack(_LOCAL_MAGIC, _VERSION, 0, 0, _TIME, _DATE, crc, size, size, len(label), 0)
    return fixed + label


def _central_header(label: bytes, crc: int, size: int, offset: int) -> bytes:
    common = (_VERSION, 0, 0, _TIME, _DATE, crc, size, size, len(label), 0, 0, 0, 0, _PERMISSIONS, offset)
    return _CENTRAL.pack(_CENTRAL_MAGIC, _MADE_BY, *common) + label
