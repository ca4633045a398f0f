"""The container: what dpkg reads in it, and that the same files are the same bytes."""

from __future__ import annotations

import hashlib
import io
import lzma
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.converters.raspberrypi.deb import PackedFile, write_deb
from emberfleet.core.errors import ConversionError

WHEN = 1_700_000_000
CONTROL = {
    "Package": "emberfleet-test",
    "Version": "1.0",
    "Architecture": "all",
    "Maintainer": "Nobody <nobody@example.org>",
    "Description": "a test\n of two lines",
}
FILES = (
    PackedFile("usr/bin/tool", b"#!/bin/sh\n", 0o755),
    PackedFile("etc/tool/tool.conf", b"a=1\n"),
    PackedFile("usr/share/tool/large", bytes(5000)),
    PackedFile("usr/share/tool/passing", b"x", lasting=False),
)


def members(deb: bytes) -> dict[str, bytes]:
    """The members of the ar archive, by a reader of its own."""
    assert deb.startswith(b"!<arch>\n")
    found, place = {}, 8
    while place < len(deb):
        header = deb[place : place + 60]
        assert header[58:] == b"`\n"
        name, size = header[:16].decode().strip(), int(header[48:58])
        found[name] = deb[place + 60 : place + 60 + size]
        place += 60 + size + size % 2
    return found


def unpacked(deb: bytes, member: str) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(members(deb)[member]))) as archive:
        found = {}
        for entry in archive:
            stream = archive.extractfile(entry)
            found[entry.name] = (entry, b"" if stream is None else stream.read())
        return found


def dpkg_deb(*words: str) -> str:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    return subprocess.run(["dpkg-deb", *words], check=True, capture_output=True, text=True).stdout


def test_the_members_stand_in_debians_order() -> None:
    deb = write_deb(CONTROL, FILES, {}, WHEN)
    assert list(members(deb)) == ["debian-binary", "control.tar.xz", "data.tar.xz"]
    assert members(deb)["debian-binary"] == b"2.0\n"


def test_files_belong_to_root_and_folders_come_before_them() -> None:
    found = unpacked(write_deb(CONTROL, FILES, {}, WHEN), "data.tar.xz")
    assert all(entry.uid == entry.gid == 0 and entry.uname == "root" for entry, _ in found.values())
    assert all(entry.mtime == WHEN for entry, _ in found.values())
    assert found["./usr/bin/tool"][0].mode == 0o755
    assert found["./usr/share/tool/large"] == (found["./usr/share/tool/large"][0], bytes(5000))
    names = list(found)
    assert names.index("./usr/share/tool") < names.index("./usr/share/tool/large")
    assert names[0] == "."


def test_the_control_file_states_size_checksums_and_configuration_files() -> None:
    found = unpacked(write_deb(CONTROL, FILES, {"postinst": b"#!/bin/sh\n"}, WHEN), "control.tar.xz")
    control = found["./control"][1].decode()
    assert control.startswith("Package: emberfleet-test\nVersion: 1.0\n")
    assert "Description: a test\n of two lines\n" in control
    folders, blocks = 6, 1 + 1 + 5 + 1
    assert f"Installed-Size: {folders + blocks}\n" in control
    assert found["./conffiles"][1] == b"/etc/tool/tool.conf\n"
    checksum = hashlib.md5(bytes(5000), usedforsecurity=False).hexdigest()
    assert f"{checksum}  usr/share/tool/large\n" in found["./md5sums"][1].decode()
    assert b"passing" not in found["./md5sums"][1]
    assert found["./postinst"][0].mode == 0o755


@given(st.permutations(FILES))
def test_the_order_of_the_files_changes_nothing(files: list[PackedFile]) -> None:
    assert write_deb(CONTROL, files, {}, WHEN) == write_deb(CONTROL, FILES, {}, WHEN)


def test_dpkg_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(write_deb(CONTROL, FILES, {}, WHEN))
    assert dpkg_deb("--field", str(path), "Package", "Version") == "Package: emberfleet-test\nVersion: 1.0\n"
    assert "root/root" in dpkg_deb("--contents", str(path))
    dpkg_deb("--extract", str(path), str(tmp_path / "out"))
    assert (tmp_path / "out/etc/tool/tool.conf").read_bytes() == b"a=1\n"


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "usr/../../x", "", "usr//bin", "./x"])
def test_a_path_that_is_not_plain_is_refused(path: str) -> None:
    with pytest.raises(ConversionError, match="not a plain path"):
        write_deb(CONTROL, [PackedFile(path, b"")], {}, WHEN)


def test_a_file_twice_or_in_place_of_a_folder_is_refused() -> None:
    with pytest.raises(ConversionError, match="comes twice"):
        write_deb(CONTROL, [PackedFile("a", b"1"), PackedFile("a", b"2")], {}, WHEN)
    with pytest.raises(ConversionError, match="a file and a folder"):
        write_deb(CONTROL, [PackedFile("a", b"1"), PackedFile("a/b", b"2")], {}, WHEN)


@pytest.mark.parametrize("text", ["a\nDepends: evil", "a\n", "a\n\n b"])
def test_a_field_cannot_carry_another(text: str) -> None:
    with pytest.raises(ConversionError, match="expected one line"):
        write_deb({**CONTROL, "Description": text}, FILES, {}, WHEN)


def test_an_unknown_script_is_refused() -> None:
    with pytest.raises(ConversionError, match="script 'install'"):
        write_deb(CONTROL, FILES, {"install": b""}, WHEN)
