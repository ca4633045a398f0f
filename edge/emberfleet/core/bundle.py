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

import hashlib
import hmac
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from emberfleet.core.archive import read_archive, write_archive
from emberfleet.core.arrays import Array
from emberfleet.core.errors import FormatError
from emberfleet.core.files import read_limited, write_atomically
from emberfleet.core.graph import Graph
from emberfleet.core.manifest import ENVELOPE_NAME, Manifest, PartInfo, check_part_name
from emberfleet.core.signing import SigningKey, VerifyKey, open_envelope, sign_envelope
from emberfleet.core.tensors import decode_tensors

MANIFEST_TYPE: Final = "application/vnd.emberfleet.manifest+json"
MAX_BUNDLE_BYTES: Final = 256 * 1024 * 1024
GRAPH_PART: Final = "graph.json"
WEIGHTS_PART: Final = "weights.safetensors"
TFLITE_PART: Final = "model.tflite"


class Bundle:
    """A bundle whose signature and digests have held. Made by `Bundle.open` alone."""

    __slots__ = ("_contents", "digest", "manifest")

    def __init__(self, manifest: Manifest, contents: Mapping[str, memoryview], digest: str) -> None:
        self.manifest: Final = manifest
        self.digest: Final = digest
        self._contents: Final = contents

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
        data = source if isinstance(source, bytes) else read_limited(source, max_bytes)
        if len(data) > max_bytes:
            raise FormatError(f"bundle: {len(data)} bytes, expected at most {max_bytes}")
        contents = read_archive(data)
        if next(iter(contents), None) != ENVELOPE_NAME:
            raise FormatError(f"bundle: the first file must be {ENVELOPE_NAME}")
        envelope = bytes(contents.pop(ENVELOPE_NAME))
        for name in contents:
            check_part_name(name)
        if list(contents) != sorted(contents):
            raise FormatError("bundle: the files are not in the order of their names")
        manifest = Manifest.decode(open_envelope(envelope, MANIFEST_TYPE, trusted))
        _check_contents(manifest.parts, contents)
        return cls(manifest, contents, hashlib.sha256(data).hexdigest())

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of all parts, sorted."""
        return tuple(self._contents)

    def part(self, name: str) -> bytes:
        """The contents of one part, as signed.

        Raises:
            FormatError: The bundle has no such part.
        """
        if name not in self._contents:
            raise FormatError(f"bundle: no part '{name}'; it has {', '.join(self._contents) or 'none'}")
        return bytes(self._contents[name])

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
    listed = {name: PartInfo(len(data), hashlib.sha256(data).hexdigest()) for name, data in ordered.items()}
    envelope = sign_envelope(MANIFEST_TYPE, replace(manifest, parts=listed).encode(), key)
    data = write_archive({ENVELOPE_NAME: envelope, **ordered})
    if len(data) > MAX_BUNDLE_BYTES:
        raise FormatError(f"bundle: {len(data)} bytes, expected at most {MAX_BUNDLE_BYTES}")
    return data


def write_bundle(path: str | Path, manifest: Manifest, parts: Mapping[str, bytes], key: SigningKey) -> str:
    """Write the file that `encode_bundle` makes, whole or not at all, and give its digest (SHA-256)."""
    data = encode_bundle(manifest, parts, key)
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def _check_contents(listed: Mapping[str, PartInfo], contents: Mapping[str, memoryview]) -> None:
    for name in listed:
        if name not in contents:
            raise FormatError(f"bundle: part '{name}' is in the manifest but not in the file")
    for name, data in contents.items():
        if name not in listed:
            raise FormatError(f"bundle: part '{name}' is in the file but not in the manifest")
        expected = listed[name]
        if len(data) != expected.size_bytes:
            raise FormatError(f"bundle: part '{name}' has {len(data)} bytes, expected {expected.size_bytes}")
        if not hmac.compare_digest(hashlib.sha256(data).hexdigest(), expected.sha256):
            raise FormatError(f"bundle: part '{name}' is not the one that was signed; fetch the file again")
