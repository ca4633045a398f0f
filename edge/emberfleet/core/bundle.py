"""The bundle (`.ember`): one signed file that a model travels in.

The rules of trust, in the order in which opening applies them; the first that fails ends it, and
there is no bundle before all have held:

1. The file is no larger than the limit.
2. It is a container of exactly our form (`core.archive`), with a signed manifest in front.
3. The manifest's envelope verifies under one of the trusted keys.
4. Every file is in the manifest, everything in the manifest is a file, sizes and digests agree.
5. Only then are the contents of files parsed, by whoever asks for them.

Opening says nothing about age: whether an older version may replace a newer one is decided by the
agent. The format is specified in docs/formats.md, section Bundle.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from emberfleet.core.archive import Entry, read_archive, read_contents, write_archive
from emberfleet.core.arrays import Array
from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import FormatError
from emberfleet.core.files import write_atomically
from emberfleet.core.graph import Graph
from emberfleet.core.manifest import ENVELOPE_NAME, Manifest, PartInfo, check_part_name
from emberfleet.core.signing import SigningKey, VerifyKey, open_envelope, sign_envelope
from emberfleet.core.sources import HeldBytes, Source, open_source
from emberfleet.core.tensors import decode_tensors

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST_TYPE: Final = "application/vnd.emberfleet.manifest+json"
MAX_BUNDLE_BYTES: Final = 256 * 1024 * 1024
GRAPH_PART: Final = "graph.json"
WEIGHTS_PART: Final = "weights.safetensors"
TFLITE_PART: Final = "model.tflite"
WIRE_MAGIC: Final = b"EMBERWIR"
"""What a wire file begins with: a bundle compressed for download (`converters.wire`)."""


class Bundle:
    """A bundle whose signature and digests have held. Made by `Bundle.open` alone.

    A bundle in a file holds no contents: a part is read when it is asked for, and given out only if those
    bytes have the digest that was signed. The file stays open, so another may take its name.
    """

    __slots__ = ("_entries", "_source", "digest", "manifest")

    def __init__(self, manifest: Manifest, source: Source, entries: Mapping[str, Entry], digest: str) -> None:
        self.manifest: Final = manifest
        self.digest: Final = digest
        self._source: Final = source
        self._entries: Final = entries

    @classmethod
    def open(
        cls, source: str | Path | bytes, trusted: Collection[VerifyKey], max_bytes: int = MAX_BUNDLE_BYTES
    ) -> Bundle:
        """Verify a bundle whole, as the module says.

        Args:
            source: The file, or its bytes.
            trusted: Keys that may sign models; one of them is enough.
            max_bytes: Refuse anything larger, before reading it.

        Raises:
            SignatureError: No trusted key has signed this manifest.
            FormatError: Anything else about the bytes.
            StorageError: The file cannot be read.
        """
        data = HeldBytes(source) if isinstance(source, bytes) else open_source(source, max_bytes)
        if data.size_bytes > max_bytes:
            raise FormatError(f"bundle: {data.size_bytes} bytes, expected at most {max_bytes}")
        if bytes(data.read(0, len(WIRE_MAGIC))) == WIRE_MAGIC:
            raise FormatError(
                "bundle: this is a wire file; `emberfleet unpack FILE --out x.ember` makes the bundle of it"
            )
        archive = read_archive(data)
        entries = dict(archive.entries)
        if next(iter(entries), None) != ENVELOPE_NAME:
            raise FormatError(f"bundle: the first file must be {ENVELOPE_NAME}")
        envelope = read_contents(data, ENVELOPE_NAME, entries.pop(ENVELOPE_NAME))
        for name in entries:
            check_part_name(name)
        if list(entries) != sorted(entries):
            raise FormatError("bundle: the files are not in the order of their names")
        manifest = Manifest.decode(open_envelope(envelope, MANIFEST_TYPE, trusted))
        _check_entries(manifest.parts, entries)
        return cls(manifest, data, entries, archive.sha256)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of all parts, sorted."""
        return tuple(self._entries)

    def part(self, name: str) -> bytes:
        """The contents of one part, as signed.

        Raises:
            FormatError: The bundle has no such part, or its file was written to since it was opened.
            StorageError: The file cannot be read any more.
        """
        if name not in self._entries:
            raise FormatError(f"bundle: no part '{name}'; it has {', '.join(self._entries) or 'none'}")
        return read_contents(self._source, name, self._entries[name])

    def graph(self) -> Graph:
        """The network of ``graph.json``."""
        return Graph.from_json(self.part(GRAPH_PART))

    def tensors(self) -> dict[str, Array]:
        """The tensors of ``weights.safetensors``, as copies."""
        return decode_tensors(self.part(WEIGHTS_PART))

    def __repr__(self) -> str:
        return f"Bundle({self.manifest.model_name} {self.manifest.model_version}, {self.digest[:16]})"


def encode_bundle(manifest: Manifest, parts: Mapping[str, bytes], key: SigningKey) -> bytes:
    """The bytes of a signed bundle; the same manifest, parts and key give the same bytes.

    Args:
        manifest: Without parts: they are filled in here.
        parts: Contents by name, in any order.
        key: Signs the manifest.

    Raises:
        FormatError: The manifest lists parts already, a name cannot be a part's, or it grows too large.
    """
    if manifest.parts:
        raise FormatError("bundle: the manifest lists parts already, expected none before they are measured")
    ordered = {name: parts[name] for name in sorted(parts)}
    listed = {name: PartInfo(len(data), sha256_hex(data)) for name, data in ordered.items()}
    envelope = sign_envelope(MANIFEST_TYPE, replace(manifest, parts=listed).encode(), key)
    data = write_archive({ENVELOPE_NAME: envelope, **ordered})
    if len(data) > MAX_BUNDLE_BYTES:
        raise FormatError(f"bundle: {len(data)} bytes, expected at most {MAX_BUNDLE_BYTES}")
    return data


def write_bundle(path: str | Path, manifest: Manifest, parts: Mapping[str, bytes], key: SigningKey) -> str:
    """Write the file that `encode_bundle` makes, whole or not at all, and give its digest (SHA-256)."""
    data = encode_bundle(manifest, parts, key)
    write_atomically(path, data)
    return sha256_hex(data)


def _check_entries(listed: Mapping[str, PartInfo], entries: Mapping[str, Entry]) -> None:
    for name in listed:
        if name not in entries:
            raise FormatError(f"bundle: part '{name}' is in the manifest but not in the file")
    for name, entry in entries.items():
        if name not in listed:
            raise FormatError(f"bundle: part '{name}' is in the file but not in the manifest")
        signed = listed[name]
        if entry.size_bytes != signed.size_bytes:
            raise FormatError(
                f"bundle: part '{name}' has {entry.size_bytes} bytes, expected {signed.size_bytes}"
            )
        if entry.sha256 != signed.sha256:
            raise FormatError(f"bundle: part '{name}' is not the one that was signed; fetch the file again")
