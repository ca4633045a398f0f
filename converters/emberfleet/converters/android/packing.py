"""Zip files of one byte sequence: jar, AAR and the unsigned APK."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

EPOCH: Final = (1980, 1, 1, 0, 0, 0)
ALIGNMENT: Final = 4
LOCAL_HEADER_BYTES: Final = 30
PADDING_FIELD: Final = 0xD935  # of Android's apksigner: an alignment, then zeros


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a zip; one that is stored can be mapped into memory from there."""

    name: str
    data: bytes
    stored: bool = False


def pack(entries: Iterable[Entry]) -> bytes:
    """Write a zip of the entries in their order; what is stored begins at multiples of four bytes."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for entry in entries:
            about = zipfile.ZipInfo(entry.name, EPOCH)
            about.create_system = 3
            about.external_attr = 0o100644 << 16
            about.compress_type = zipfile.ZIP_STORED if entry.stored else zipfile.ZIP_DEFLATED
            if entry.stored:
                about.extra = _padding(target.tell() + LOCAL_HEADER_BYTES + len(entry.name.encode()))
            archive.writestr(about, entry.data, compresslevel=None if entry.stored else 9)
    return target.getvalue()


def _padding(at: int) -> bytes:
    """An extra field so long that what follows it is aligned."""
    zeros = -(at + 6) % ALIGNMENT
    return b"".join(n.to_bytes(2, "little") for n in (PADDING_FIELD, 2 + zeros, ALIGNMENT)) + bytes(zeros)
