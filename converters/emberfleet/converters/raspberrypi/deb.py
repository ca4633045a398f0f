"""The container of a Debian package, written reproducibly: an ar archive of two compressed tar archives.

===================  ==============================================================================
``debian-binary``    the format's version, ``2.0``
``control.tar.xz``   the control file, checksums, the list of configuration files, the scripts
``data.tar.xz``      the files as they lie below ``/``, with their folders
===================  ==============================================================================

Everything belongs to root, is sorted by name and carries one time, so the same files are the same bytes.

Source: deb(5) and deb-control(5), Debian Policy Manual 4.7, chapters 3 to 6.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from emberfleet.core.errors import ConversionError

SCRIPTS: Final = ("preinst", "postinst", "prerm", "postrm")
FORMAT_VERSION: Final = b"2.0\n"
LARGE_BYTES: Final = 16 << 20
"""An archive beyond this holds wheels, which are compressed already: much effort would gain nothing."""
BLOCK_BYTES: Final = 1024
"""A file counts as whole blocks of this size in Installed-Size, and a folder as one."""


@dataclass(frozen=True, slots=True)
class PackedFile:
    """One file of a package.

    Attributes:
        path: Where it goes, below ``/`` and without it, such as ``usr/bin/emberfleet``.
        data: Its contents.
        mode: Its permission bits.
        lasting: Whether it stays as installed, so that its checksum is worth keeping.
    """

    path: str
    data: bytes
    mode: int = 0o644
    lasting: bool = True


def write_deb(
    control: Mapping[str, str],
    files: Iterable[PackedFile],
    scripts: Mapping[str, bytes],
    when: int,
) -> bytes:
    """Write a package.

    Files below ``etc`` are configuration files: dpkg keeps what the owner of the device changed in them.

    Args:
        control: Fields of the control file, in order; Installed-Size is added.
        files: What it installs, in any order.
        scripts: Maintainer scripts by name, see `SCRIPTS`.
        when: Seconds since 1970 that every file carries.

    Raises:
        ConversionError: a path that leaves the root or comes twice, an unknown script, or a field that would
            end before its text does.
    """
    listed = sorted(files, key=lambda file: file.path)
    _check(control, listed, scripts)
    configuration = "".join(f"/{file.path}\n" for file in listed if file.path.startswith("etc/"))
    checksums = "".join(
        f"{hashlib.md5(file.data, usedforsecurity=False).hexdigest()}  {file.path}\n"
        for file in listed
        if file.lasting and not file.path.startswith("etc/")
    )
    blocks = sum(-(-len(file.data) // BLOCK_BYTES) for file in listed) + len(_folders(listed))
    fields = {**control, "Installed-Size": str(blocks)}
    described = [
        PackedFile("conffiles", configuration.encode()),
        PackedFile("control", "".join(f"{name}: {text}\n" for name, text in fields.items()).encode()),
        PackedFile("md5sums", checksums.encode()),
        *(PackedFile(name, data, 0o755) for name, data in sorted(scripts.items())),
    ]
    return b"!<arch>\n" + b"".join(
        _ar_member(name, data, when)
        for name, data in (
            ("debian-binary", FORMAT_VERSION),
            ("control.tar.xz", _tar_xz([file for file in described if file.data], when)),
            ("data.tar.xz", _tar_xz(listed, when)),
        )
    )


def _check(control: Mapping[str, str], files: list[PackedFile], scripts: Mapping[str, bytes]) -> None:
    for name, text in control.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name) or re.search(r"\n(?! \S)", text):
            raise ConversionError(
                f"Debian package: field '{name}' is {text!r}, expected one line, or more behind a space"
            )
    for script in scripts:
        if script not in SCRIPTS:
            raise ConversionError(f"Debian package: script '{script}', expected one of {', '.join(SCRIPTS)}")
    seen: set[str] = set()
    for file in files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts or str(path) != file.path or not path.parts:
            raise ConversionError(f"Debian package: '{file.path}' is not a plain path below the root")
        if file.path in seen:
            raise ConversionError(f"Debian package: '{file.path}' comes twice")
        seen.add(file.path)
    for folder in _folders(files):
        if folder in seen:
            raise ConversionError(f"Debian package: '{folder}' is a file and a folder")


def _folders(files: Iterable[PackedFile]) -> list[str]:
    found = {str(folder) for file in files for folder in PurePosixPath(file.path).parents}
    return sorted(found - {"."})


def _tar_xz(files: list[PackedFile], when: int) -> bytes:
    """Folders first, then files; names begin with ``./`` as dpkg's own do."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for folder in ("", *_folders(files)):
            archive.addfile(_entry(f"./{folder}" if folder else "./", tarfile.DIRTYPE, 0o755, 0, when))
        for file in files:
            archive.addfile(
                _entry(f"./{file.path}", tarfile.REGTYPE, file.mode, len(file.data), when),
                io.BytesIO(file.data),
            )
    size = stream.tell()
    return lzma.compress(stream.getvalue(), preset=6 if size < LARGE_BYTES else 1)


def _entry(name: str, kind: bytes, mode: int, size: int, when: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size, entry.mtime = kind, mode, size, when
    entry.uname = entry.gname = "root"
    return entry


def _ar_member(name: str, data: bytes, when: int) -> bytes:
    """The 60 bytes of a member's header, its data, and a byte where needed to come out even."""
    header = f"{name:<16}{when:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode("ascii")
    return header + data + b"\n" * (len(data) % 2)
