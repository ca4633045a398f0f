"""Every way we know to break a bundle, each with the error it must give.

A case is a function from a good bundle to a bad one. Structural cases patch bytes; those behind the
signature are signed with the trusted key, because a careless publisher breaks bundles too.
"""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from emberfleet.core.archive import read_archive, read_contents, write_archive
from emberfleet.core.bundle import MANIFEST_TYPE, Bundle
from emberfleet.core.errors import EmberError, FormatError, SignatureError
from emberfleet.core.manifest import ENVELOPE_NAME, Manifest, PartInfo
from emberfleet.core.signing import NOT_VERIFIED, SigningKey, open_envelope, sign_envelope
from emberfleet.core.sources import HeldBytes
from tests.golden.make_bundle import KEY, make_files

GOOD = make_files()["tiny.ember"]
STRANGER = SigningKey(b"\x07" * 32)
LIMIT = 1 << 20

Attack = Callable[[], bytes]


@dataclass(frozen=True)
class Case:
    """One attack and what opening must say to it."""

    error: type[EmberError]
    text: str
    attack: Attack


def entries() -> dict[str, bytes]:
    """The files of the good bundle, to be changed and packed again."""
    source = HeldBytes(GOOD)
    found = read_archive(source).entries
    return {name: read_contents(source, name, entry) for name, entry in found.items()}


def repacked(**changes: bytes | None) -> bytes:
    """The good bundle with files replaced, added, or (None) left out; the manifest stays."""
    files = entries()
    for name, data in changes.items():
        if data is None:
            del files[name]
        else:
            files[name] = data
    first = {ENVELOPE_NAME: files.pop(ENVELOPE_NAME)} if ENVELOPE_NAME in files else {}
    return write_archive({**first, **{name: files[name] for name in sorted(files)}})


def manifest() -> Manifest:
    return Manifest.decode(open_envelope(entries()[ENVELOPE_NAME], MANIFEST_TYPE, [KEY.verify_key]))


def signed(payload: bytes, kind: str = MANIFEST_TYPE, key: SigningKey = KEY) -> bytes:
    """The good bundle with another manifest in a good envelope."""
    return repacked(**{ENVELOPE_NAME: sign_envelope(kind, payload, key)})


def with_parts(**parts: PartInfo) -> bytes:
    """The good bundle whose signed manifest says something else of its parts."""
    document = manifest().to_json()
    document["parts"].update(
        {name: {"size_bytes": part.size_bytes, "sha256": part.sha256} for name, part in parts.items()}
    )
    return signed(json.dumps(document).encode())


def patched(at: int, data: bytes) -> bytes:
    return GOOD[:at] + data + GOOD[at + len(data) :]


END = len(GOOD) - 22
DIRECTORY = struct.unpack_from("<I", GOOD, END + 16)[0]
SECOND = GOOD.index(b"PK\x01\x02", DIRECTORY + 4)
"""The directory entry of the second file."""


def in_both_headers(local_at: int, central_at: int, data: bytes) -> bytes:
    """The same change in the first file's local header and directory entry."""
    changed = patched(local_at, data)
    at = DIRECTORY + central_at
    return changed[:at] + data + changed[at + len(data) :]


def with_end(**changes: int) -> bytes:
    names = ("disk", "directory_disk", "count_here", "count", "size", "offset", "comment")
    values = dict(zip(names, struct.unpack_from("<4H2IH", GOOD, END + 4), strict=True))
    return GOOD[: END + 4] + struct.pack("<4H2IH", *{**values, **changes}.values())


def inserted(at: int, data: bytes, moved_directory: bool = True) -> bytes:
    """Bytes put in somewhere, with the end record's offset following."""
    offset = DIRECTORY + (len(data) if moved_directory and at <= DIRECTORY else 0)
    size = END - DIRECTORY + (len(data) if at > DIRECTORY else 0)
    changed = GOOD[:at] + data + GOOD[at:END]
    return changed + GOOD[END : END + 12] + struct.pack("<IIH", size, offset, 0)


def rewritten(compression: int = zipfile.ZIP_STORED, zip64: bool = False) -> bytes:
    """The same files as an ordinary zip program packs them."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in entries().items():
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            with archive.open(info, "w", force_zip64=zip64) as stream:
                stream.write(data)
    return out.getvalue()


def two_of_one_name() -> bytes:
    """The second file under the third one's name: packed as 'graph.jsom', then renamed in place."""
    data = repacked(**{"graph.jsom": entries()["graph.json"]})
    return data.replace(b"graph.jsom", b"graph.json")


def with_extra_field(data: bytes) -> bytes:
    """An extra field behind the last directory entry."""
    last = GOOD.rindex(b"PK\x01\x02")
    changed = bytearray(GOOD[:END] + data)
    struct.pack_into("<H", changed, last + 30, len(data))
    return (
        bytes(changed) + GOOD[END : END + 12] + struct.pack("<IIH", END - DIRECTORY + len(data), DIRECTORY, 0)
    )


def overlapping() -> bytes:
    """The second file begins where the first does."""
    return patched(SECOND + 42, struct.pack("<I", 0))


def second_manifest_first() -> bytes:
    files = entries()
    envelope = files.pop(ENVELOPE_NAME)
    return write_archive({**files, ENVELOPE_NAME: envelope})


def swapped_contents() -> bytes:
    """Two parts of the same size change places."""
    other = bytes(reversed(entries()["graph.json"]))
    return repacked(**{"graph.json": other})


def mixed() -> bytes:
    """The envelope of another good bundle of the same signer: version 8, other weights."""
    newer = replace(manifest(), model_version=8)
    info = newer.parts["weights.safetensors"]
    parts = {**newer.parts, "weights.safetensors": PartInfo(info.size_bytes, "ab" * 32)}
    return signed(replace(newer, parts=parts).encode())


def named(name: str) -> Attack:
    """A file of this name in the container, as `graph.json` is."""
    raw = name.encode()
    return lambda: repacked(**{"x" * len(raw): b""}).replace(b"x" * len(raw), raw)


def unsorted() -> bytes:
    files = entries()
    first = {ENVELOPE_NAME: files.pop(ENVELOPE_NAME)}
    return write_archive({**first, **dict(reversed(files.items()))})


GOOD_PART = manifest().parts["graph.json"]
ZIP64_LOCATOR = b"PK\x06\x07" + bytes(16)

CASES = {
    # Limits and the end of the file
    "empty": Case(FormatError, "no end record; the file is truncated or not a bundle", lambda: b""),
    "a text": Case(FormatError, "no end record", lambda: b"hello" * 100),
    "over the limit": Case(FormatError, f"expected at most {LIMIT}", lambda: GOOD + bytes(LIMIT)),
    "truncated by a byte": Case(FormatError, "no end record", lambda: GOOD[:-1]),
    "truncated in the middle": Case(FormatError, "no end record", lambda: GOOD[: len(GOOD) // 2]),
    "trailing bytes": Case(FormatError, "bytes behind its end record", lambda: GOOD + b"more"),
    "an archive comment": Case(FormatError, "comment", lambda: with_end(comment=4)),
    "a comment with its text": Case(
        FormatError, "bytes behind its end record", lambda: with_end(comment=4) + b"text"
    ),
    "bytes in front": Case(FormatError, "expected it to end at", lambda: b"#!/bin/sh\n" + GOOD),
    "bytes in front, directory moved": Case(
        FormatError, "no directory entry", lambda: with_end(offset=DIRECTORY - 4, size=END - DIRECTORY + 4)
    ),
    "several disks": Case(FormatError, "several disks", lambda: with_end(disk=1)),
    "counts that differ": Case(FormatError, "several disks", lambda: with_end(count_here=1)),
    "too many files": Case(
        FormatError, "60000 files, expected at most 1024", lambda: with_end(count=60000, count_here=60000)
    ),
    "one file more than there is": Case(
        FormatError, "no directory entry at", lambda: with_end(count=5, count_here=5)
    ),
    "one file less than there is": Case(
        FormatError, "bytes between", lambda: with_end(count=3, count_here=3)
    ),
    "no file at all": Case(FormatError, "the first file must be", lambda: write_archive({})),
    # zip64
    "zip64 in the end record": Case(FormatError, "zip64", lambda: with_end(offset=0xFFFFFFFF)),
    "zip64 in the counts": Case(FormatError, "zip64", lambda: with_end(count=0xFFFF, count_here=0xFFFF)),
    "a zip64 locator": Case(FormatError, "zip64", lambda: inserted(END, ZIP64_LOCATOR)),
    "a zip64 size": Case(FormatError, "zip64", lambda: patched(DIRECTORY + 20, b"\xff" * 4)),
    "a zip64 extra field": Case(
        FormatError, "zip64", lambda: with_extra_field(b"\x01\x00\x08\x00" + bytes(8))
    ),
    # Entries
    "packed by an ordinary program": Case(FormatError, "directory fields that the format", rewritten),
    "compressed": Case(FormatError, "is compressed", lambda: rewritten(zipfile.ZIP_DEFLATED)),
    "compressed by lzma": Case(FormatError, "is compressed", lambda: rewritten(zipfile.ZIP_LZMA)),
    "encrypted": Case(FormatError, "is encrypted", lambda: in_both_headers(6, 8, b"\x01\x00")),
    "a data descriptor": Case(FormatError, "directory fields", lambda: in_both_headers(6, 8, b"\x08\x00")),
    "another date": Case(FormatError, "directory fields", lambda: in_both_headers(12, 14, b"\x22\x00")),
    "a symbolic link": Case(
        FormatError, "directory fields", lambda: patched(DIRECTORY + 38, struct.pack("<I", 0o120777 << 16))
    ),
    "an extra field": Case(FormatError, "directory fields", lambda: with_extra_field(b"UT\x01\x00x")),
    "stored size unlike size": Case(
        FormatError, "is stored as 1 bytes", lambda: patched(DIRECTORY + 20, struct.pack("<I", 1))
    ),
    "a header that says another name": Case(
        FormatError, "does not say what the directory says", lambda: patched(30, b"N")
    ),
    "a header that says another size": Case(
        FormatError, "does not say what the directory says", lambda: patched(22, b"\x01")
    ),
    "a size up to the sky": Case(
        FormatError, "does not say", lambda: patched(DIRECTORY + 20, struct.pack("<II", 1 << 31, 1 << 31))
    ),
    "a file that runs into the directory": Case(
        FormatError,
        "runs into the directory",
        lambda: (
            patched(18, struct.pack("<II", LIMIT, LIMIT))[: DIRECTORY + 20]
            + struct.pack("<II", LIMIT, LIMIT)
            + GOOD[DIRECTORY + 28 :]
        ),
    ),
    "overlapping files": Case(FormatError, "overlaps the file before", overlapping),
    "a gap between files": Case(
        FormatError,
        "leaves a gap",
        lambda: patched(SECOND + 42, struct.pack("<I", struct.unpack_from("<I", GOOD, SECOND + 42)[0] + 1)),
    ),
    "bytes before the directory": Case(FormatError, "bytes between", lambda: inserted(DIRECTORY, b"hidden")),
    "bytes behind the directory": Case(
        FormatError, "does not hold as many files", lambda: inserted(END, b"hidden behind the directory")
    ),
    "a wrong checksum": Case(FormatError, "does not match its checksum", lambda: patched(80, b"\x00")),
    "duplicate names": Case(FormatError, "'graph.json' stands twice", two_of_one_name),
    "a name that is not ASCII": Case(
        FormatError,
        "of ASCII",
        lambda: repacked(xx=b"").replace(b"xx", "ü".encode()),
    ),
    "an empty name": Case(FormatError, "a file name of 0 bytes", lambda: patched(DIRECTORY + 28, b"\0\0")),
    "a name of 60000 bytes": Case(
        FormatError, "a file name of 60000", lambda: patched(DIRECTORY + 28, struct.pack("<H", 60000))
    ),
    # Names of files
    "a path out of the folder": Case(FormatError, "leaves its folder by '..'", named("../../evil")),
    "a path out of a folder inside": Case(FormatError, "leaves its folder by '..'", named("a/../../evil")),
    "an absolute path": Case(FormatError, "is an absolute path", named("/etc/passwd")),
    "a backslash": Case(FormatError, "has a backslash", named("..\\evil")),
    "a drive": Case(FormatError, "must be up to", named("C:evil")),
    "a null character": Case(FormatError, "must be up to", named("graph\x00.json")),
    "a folder": Case(FormatError, "must be up to", named("opencl/")),
    "files out of order": Case(FormatError, "not in the order of their names", unsorted),
    # Signature
    "no manifest": Case(
        FormatError, f"the first file must be {ENVELOPE_NAME}", lambda: repacked(**{ENVELOPE_NAME: None})
    ),
    "the manifest not in front": Case(FormatError, "the first file must be", second_manifest_first),
    "an unsigned manifest": Case(
        FormatError, "envelope", lambda: repacked(**{ENVELOPE_NAME: manifest().encode()})
    ),
    "the key of a stranger": Case(
        SignatureError, NOT_VERIFIED, lambda: signed(manifest().encode(), key=STRANGER)
    ),
    "an envelope of another type": Case(
        SignatureError, NOT_VERIFIED, lambda: signed(manifest().encode(), "application/other")
    ),
    "a signature cut off": Case(
        SignatureError,
        NOT_VERIFIED,
        lambda: repacked(
            **{ENVELOPE_NAME: json.dumps({**json.loads(entries()[ENVELOPE_NAME]), "signatures": []}).encode()}
        ),
    ),
    # Contents against the manifest
    "a part missing": Case(
        FormatError,
        "'graph.json' is in the manifest but not in the file",
        lambda: repacked(**{"graph.json": None}),
    ),
    "a part too many": Case(
        FormatError, "'zz' is in the file but not in the manifest", lambda: repacked(zz=b"")
    ),
    "a part longer": Case(
        FormatError,
        f"has {GOOD_PART.size_bytes + 1} bytes, expected {GOOD_PART.size_bytes}",
        lambda: repacked(**{"graph.json": entries()["graph.json"] + b" "}),
    ),
    "a part changed": Case(FormatError, "'graph.json' is not the one that was signed", swapped_contents),
    "mix and match": Case(FormatError, "'weights.safetensors' is not the one that was signed", mixed),
    "a wrong size signed": Case(
        FormatError,
        "bytes, expected 1",
        lambda: with_parts(**{"graph.json": replace(GOOD_PART, size_bytes=1)}),
    ),
    "a path out of the folder signed": Case(
        FormatError, "leaves its folder by '..'", lambda: with_parts(**{"../evil": GOOD_PART})
    ),
    # The manifest itself
    "a manifest that is no JSON": Case(FormatError, "manifest: not the JSON", lambda: signed(b"\x80pickle")),
    "a manifest nested deep": Case(FormatError, "manifest: not the JSON", lambda: signed(b"[" * 200_000)),
    "a manifest of the future": Case(
        FormatError,
        "format 2, expected 1; a newer emberfleet may read it",
        lambda: signed(json.dumps({**manifest().to_json(), "format": 2}).encode()),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_attack_is_refused_with_its_own_words(name: str) -> None:
    case = CASES[name]
    data = case.attack()
    assert data != GOOD
    with pytest.raises(case.error) as caught:
        Bundle.open(data, [KEY.verify_key], LIMIT)
    assert type(caught.value) is case.error
    assert case.text in str(caught.value)


@pytest.mark.parametrize("name", CASES)
def test_the_attack_fares_no_better_from_a_file(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    (tmp_path / "bad.ember").write_bytes(case.attack())
    with pytest.raises(case.error):
        Bundle.open(tmp_path / "bad.ember", [KEY.verify_key], LIMIT)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.ember"]


def test_the_bundle_that_the_attacks_start_from_is_good() -> None:
    assert Bundle.open(GOOD, [KEY.verify_key], LIMIT).manifest.model_version == 7
    assert repacked() == GOOD
    assert signed(manifest().encode()) == GOOD


def test_a_zip_bomb_is_refused_and_not_inflated() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(ENVELOPE_NAME, bytes(64 << 20))
    bomb = out.getvalue()
    assert len(bomb) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="is compressed"):
            Bundle.open(bomb, [KEY.verify_key])
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
