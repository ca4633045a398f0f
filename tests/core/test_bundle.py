"""Bundles that are as they should be; those that are not stand in tests/attacks/test_bundle_attacks.py."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.archive import PIECE_BYTES, read_archive, read_contents, write_archive
from emberfleet.core.bundle import MAX_BUNDLE_BYTES, Bundle, encode_bundle, write_bundle
from emberfleet.core.errors import FormatError, SignatureError, StorageError
from emberfleet.core.manifest import ENVELOPE_NAME
from emberfleet.core.signing import SigningKey
from tests.golden.make_bundle import KEY, make_files, make_graph, make_manifest, make_parts, make_tensors

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TRUSTED = [KEY.verify_key]
PART_NAMES = st.from_regex(r"[a-z0-9_][a-z0-9._-]{0,8}(/[a-z0-9_][a-z0-9._-]{0,8})?", fullmatch=True)


@pytest.mark.parametrize("name", ["tiny.ember", "tiny.safetensors"])
def test_the_writers_still_make_the_golden_bytes(name: str) -> None:
    assert make_files()[name] == (GOLDEN / name).read_bytes()


def test_the_golden_bundle_opens_and_holds_what_went_in() -> None:
    bundle = Bundle.open(GOLDEN / "tiny.ember", TRUSTED)
    assert replace(bundle.manifest, parts={}) == make_manifest()
    assert {name: bundle.part(name) for name in bundle.parts} == make_parts()
    assert bundle.graph() == make_graph()
    tensors = bundle.tensors()
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in tensors.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in make_tensors().items()
    }


@given(st.dictionaries(PART_NAMES, st.binary(max_size=50), max_size=6))
def test_what_is_packed_is_unpacked(parts: dict[str, bytes]) -> None:
    bundle = Bundle.open(encode_bundle(make_manifest(), parts, KEY), TRUSTED)
    assert {name: bundle.part(name) for name in bundle.parts} == parts


def test_the_order_of_the_parts_does_not_change_the_bytes() -> None:
    parts = make_parts()
    reordered = dict(reversed(parts.items()))
    assert encode_bundle(make_manifest(), parts, KEY) == encode_bundle(make_manifest(), reordered, KEY)


def test_any_zip_program_reads_it_and_finds_the_files_stored() -> None:
    data = make_files()["tiny.ember"]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [ENVELOPE_NAME, *sorted(make_parts())]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.read("graph.json") == make_parts()["graph.json"]


def test_the_digest_is_that_of_the_file_on_the_disk(tmp_path: Path) -> None:
    digest = write_bundle(tmp_path / "a.ember", make_manifest(), make_parts(), KEY)
    assert digest == hashlib.sha256((tmp_path / "a.ember").read_bytes()).hexdigest()
    assert Bundle.open(tmp_path / "a.ember", TRUSTED).digest == digest


def test_one_of_several_trusted_keys_is_enough() -> None:
    bundle = Bundle.open(make_files()["tiny.ember"], [SigningKey(bytes(32)).verify_key, *TRUSTED])
    assert bundle.manifest.model_version == 7


def test_opening_does_not_decide_about_rollback() -> None:
    older = encode_bundle(replace(make_manifest(), model_version=1), make_parts(), KEY)
    assert Bundle.open(older, TRUSTED).manifest.model_version == 1


def test_a_part_that_is_not_there_is_named_with_those_that_are() -> None:
    bundle = Bundle.open(make_files()["tiny.ember"], TRUSTED)
    with pytest.raises(FormatError, match=r"no part 'model.tflite'; it has graph.json, "):
        bundle.part("model.tflite")


def test_a_manifest_that_lists_parts_already_is_refused() -> None:
    bundle = Bundle.open(make_files()["tiny.ember"], TRUSTED)
    with pytest.raises(FormatError, match="lists parts already"):
        encode_bundle(bundle.manifest, make_parts(), KEY)


@pytest.mark.parametrize("name", ["../a", "/a", "a\\b", ENVELOPE_NAME])
def test_a_part_with_a_name_that_no_reader_accepts_is_not_written(name: str) -> None:
    with pytest.raises(FormatError, match="part"):
        encode_bundle(make_manifest(), {name: b""}, KEY)


def test_a_bundle_that_could_not_be_opened_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=f"expected at most {MAX_BUNDLE_BYTES}"):
        write_bundle(tmp_path / "a.ember", make_manifest(), {"big": bytes(MAX_BUNDLE_BYTES)}, KEY)
    assert list(tmp_path.iterdir()) == []


def test_a_file_over_the_callers_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a.ember", make_manifest(), make_parts(), KEY)
    with pytest.raises(FormatError, match="expected at most 1000"):
        Bundle.open(tmp_path / "a.ember", TRUSTED, max_bytes=1000)


def test_a_missing_file_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        Bundle.open(tmp_path / "missing.ember", TRUSTED)


def test_a_bundle_shows_its_name_version_and_digest() -> None:
    bundle = Bundle.open(make_files()["tiny.ember"], TRUSTED)
    assert repr(bundle) == f"Bundle(tiny 7, {bundle.digest[:16]})"


def test_every_truncation_is_refused() -> None:
    data = make_files()["tiny.ember"]
    for length in range(len(data)):
        with pytest.raises(FormatError):
            Bundle.open(data[:length], TRUSTED)


def test_every_changed_byte_is_refused() -> None:
    data = make_files()["tiny.ember"]
    for at in range(len(data)):
        with pytest.raises((FormatError, SignatureError)):
            Bundle.open(data[:at] + bytes([data[at] ^ 0x21]) + data[at + 1 :], TRUSTED)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        Bundle.open(data, TRUSTED)


def test_a_bundle_in_a_file_is_read_in_pieces(tmp_path: Path) -> None:
    """Parts larger than a piece, and one that ends with a piece."""
    sizes = {"a": 3 * PIECE_BYTES + 5, "b": PIECE_BYTES, "c": 0}
    parts = {name: bytes([size % 251]) * size for name, size in sizes.items()}
    digest = write_bundle(tmp_path / "a.ember", make_manifest(), parts, KEY)
    bundle = Bundle.open(tmp_path / "a.ember", TRUSTED)
    assert bundle.digest == digest == hashlib.sha256((tmp_path / "a.ember").read_bytes()).hexdigest()
    assert {name: bundle.part(name) for name in bundle.parts} == parts


def test_opening_a_file_holds_no_contents(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a.ember", make_manifest(), {"a": bytes(8 << 20), "b": bytes(8 << 20)}, KEY)
    tracemalloc.start()
    bundle = Bundle.open(tmp_path / "a.ember", TRUSTED)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert bundle.parts == ("a", "b")
    assert peak < 1 << 20


def test_a_part_that_changed_since_the_bundle_was_opened_is_not_given_out(tmp_path: Path) -> None:
    parts = make_parts()
    write_bundle(tmp_path / "a.ember", make_manifest(), parts, KEY)
    bundle = Bundle.open(tmp_path / "a.ember", TRUSTED)
    with open(tmp_path / "a.ember", "r+b") as stream:
        stream.seek((tmp_path / "a.ember").read_bytes().index(parts["graph.json"]))
        stream.write(b"[")
    with pytest.raises(FormatError, match=r"'graph\.json' has changed since the bundle was opened"):
        bundle.part("graph.json")
    assert bundle.part("weights.safetensors") == parts["weights.safetensors"]


def test_a_file_that_grows_shorter_once_it_is_open_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a.ember", make_manifest(), make_parts(), KEY)
    bundle = Bundle.open(tmp_path / "a.ember", TRUSTED)
    os.truncate(tmp_path / "a.ember", 100)
    with pytest.raises(FormatError, match="has changed"):
        bundle.tensors()


def test_a_new_file_of_the_same_name_leaves_an_open_bundle_as_it_was(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a.ember", make_manifest(), make_parts(), KEY)
    bundle = Bundle.open(tmp_path / "a.ember", TRUSTED)
    write_bundle(tmp_path / "a.ember", make_manifest(), {"graph.json": b"{}"}, KEY)
    assert {name: bundle.part(name) for name in bundle.parts} == make_parts()


class Swapped:
    """A source whose contents change after it was read once, as a file may under its reader."""

    def __init__(self, first: bytes, then: bytes) -> None:
        self.size_bytes = len(first)
        self._first, self._then, self._read = first, then, set[int]()

    def read(self, at: int, size_bytes: int) -> bytes:
        data = self._then if at in self._read else self._first
        self._read.add(at)
        return data[at : at + size_bytes]


def test_contents_that_change_after_their_digest_was_taken_are_refused() -> None:
    data = write_archive({"a": b"signed bytes"})
    source = Swapped(data, data.replace(b"signed", b"forged"))
    archive = read_archive(source)
    with pytest.raises(FormatError, match="'a' has changed"):
        read_contents(source, "a", archive.entries["a"])


def test_verifying_loads_nothing_that_it_can_do_without(tmp_path: Path) -> None:
    """`hashlib` brings a second OpenSSL of 3 MiB; what reads key files takes 1 MiB, and so do paths."""
    needless = {"_hashlib", "pathlib", "cryptography.hazmat.primitives.serialization"}
    edge = str(Path(__file__).resolve().parents[2] / "edge")
    (tmp_path / "a.ember").write_bytes(make_files()["tiny.ember"])
    code = (
        f"import sys; sys.path[:0] = [{edge!r}]; from emberfleet.core.bundle import Bundle; "
        f"from emberfleet.core.signing import VerifyKey; key = VerifyKey.from_text({KEY.verify_key.text!r}); "
        f"Bundle.open({str(tmp_path / 'a.ember')!r}, [key]).tensors(); print({needless} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
