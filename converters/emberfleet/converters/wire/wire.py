"""The wire file (`.emberwire`): a bundle compressed for download, and back to the same bytes.

A bundle holds its weights three times over: as float32, in the .tflite and in the OpenCL part. All parts
are made from the graph and its tensors by `converters.bundle.bundle_parts`, so a wire file carries the signed
manifest, the graph and the tensors, and the parts are made again where it is opened. What this version
would not make again bit for bit is kept as it is.

The rules of trust, in the order in which opening applies them; the first that fails ends it:

1. The file is no larger than the limit, and every size in its head is within one.
2. The manifest's envelope verifies under one of the trusted keys.
3. The graph has the digest that was signed; only then is it parsed.
4. The tensors, decoded within the size that was signed for the weights, have the digest that was signed.
5. Every part that is made again or was kept has the digest that was signed.

The format is specified in docs/formats.md, section Wire file.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from emberfleet.converters.bundle import FLOAT_TFLITE_PART, bundle_parts
from emberfleet.converters.wire.packing import Entry, Kind, Packed, compress, decompress, pack, unpack
from emberfleet.core.archive import read_archive, read_contents, write_archive
from emberfleet.core.arrays import Float32
from emberfleet.core.bundle import (
    GRAPH_PART,
    MANIFEST_TYPE,
    MAX_BUNDLE_BYTES,
    WEIGHTS_PART,
    WIRE_MAGIC,
    Bundle,
)
from emberfleet.core.codec import encode_json, to_base64
from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import ConversionError, EmberError, FormatError
from emberfleet.core.files import read_limited
from emberfleet.core.graph import Graph
from emberfleet.core.manifest import ENVELOPE_NAME, Manifest, check_part_name
from emberfleet.core.signing import VerifyKey, open_envelope
from emberfleet.core.sources import HeldBytes
from emberfleet.core.tensors import decode_tensors, encode_tensors

FORMAT: Final = 2
MAX_HEAD_BYTES: Final = 16 << 20
MAX_DESCRIPTION_BYTES: Final = 4 << 20
"""Of JSON in the head, which is parsed before a signature has held."""
MAX_TENSORS: Final = 16384
_START: Final = struct.Struct("<8sHHIIIII")
"""Magic, format, largest level, sizes: head packed and unpacked, numbers packed and unpacked, codes."""


def is_wire(data: bytes) -> bool:
    """Whether bytes begin as a wire file does."""
    return data[: len(WIRE_MAGIC)] == WIRE_MAGIC


def encode_wire(bundle: bytes, trusted: Collection[VerifyKey]) -> bytes:
    """Compress a bundle; `open_wire` gives its bytes back, which is checked here.

    Args:
        bundle: The bytes of a signed bundle.
        trusted: Keys one of which has signed it.

    Raises:
        SignatureError: none of them has.
        FormatError: not a bundle, or one of another form than wire files can carry.
    """
    opened = Bundle.open(bundle, trusted)
    source = HeldBytes(bundle)
    envelope = read_contents(source, ENVELOPE_NAME, read_archive(source).entries[ENVELOPE_NAME])
    fields = json.loads(envelope)
    payload = base64.b64decode(fields["payload"])
    graph = opened.part(GRAPH_PART)
    tensors = decode_tensors(opened.part(WEIGHTS_PART))
    if any(value.dtype != np.float32 for value in tensors.values()):
        raise FormatError("wire: a bundle whose weights are not all float32 cannot be compressed")
    kept, opencl_float = _not_made_again(opened, Graph.from_json(graph), tensors)
    packed = pack(tensors)
    described = {
        "signatures": fields["signatures"],
        "opencl_float": opencl_float,
        "payload": len(payload),
        "graph": len(graph),
        "kept": {name: len(data) for name, data in kept.items()},
        "tensors": [[entry.name, list(entry.shape), int(entry.kind)] for entry in packed.entries],
    }
    text = encode_json(described)
    head = b"".join((struct.pack("<I", len(text)), text, payload, graph, *kept.values()))
    squeezed = compress(head)
    sizes = (len(squeezed), len(head), len(packed.numbers), packed.numbers_size, len(packed.codes))
    start = _START.pack(WIRE_MAGIC, FORMAT, packed.most, *sizes)
    wire = b"".join((start, squeezed, packed.numbers, packed.codes))
    if open_wire(wire, trusted) != bundle:
        raise ConversionError("wire: the bundle has a form that cannot be made again; send the bundle itself")
    return wire


def open_wire(
    source: str | Path | bytes, trusted: Collection[VerifyKey], max_bytes: int = MAX_BUNDLE_BYTES
) -> bytes:
    """The bytes of the bundle that a wire file stands for, every digest in its signed manifest checked.

    Args:
        source: The file, or its bytes.
        trusted: Keys that may sign models; one of them is enough.
        max_bytes: Of the wire file, and of the bundle.

    Raises:
        SignatureError: no trusted key has signed the manifest.
        ConversionError: this version makes another part than the one that was signed.
        FormatError: anything else about the bytes.
        StorageError: the file cannot be read.
    """
    data = source if isinstance(source, bytes) else read_limited(source, max_bytes)
    if len(data) > max_bytes:
        raise FormatError(f"wire: {len(data)} bytes, expected at most {max_bytes}")
    most, head, numbers, numbers_size, codes = _sections(data)
    described, payload, graph_text, kept = _read_head(head)
    envelope = encode_json(
        {
            "payload": to_base64(payload),
            "payloadType": MANIFEST_TYPE,
            "signatures": described.get("signatures"),
        }
    )
    manifest = Manifest.decode(open_envelope(envelope, MANIFEST_TYPE, trusted))
    if sum(part.size_bytes for part in manifest.parts.values()) > max_bytes:
        raise FormatError(f"wire: the manifest lists over {max_bytes} bytes")
    _check_part(manifest, GRAPH_PART, graph_text, "damaged")
    entries = _entries(described.get("tensors"), manifest.parts[WEIGHTS_PART].size_bytes)
    if numbers_size > manifest.parts[WEIGHTS_PART].size_bytes + MAX_HEAD_BYTES:
        raise FormatError(f"wire: {numbers_size} bytes of numbers, more than the weights can need")
    tensors = unpack(Packed(entries, numbers, numbers_size, most, codes))
    _check_part(manifest, WEIGHTS_PART, encode_tensors(tensors), "damaged")
    parts = _made(manifest, Graph.from_json(graph_text), tensors, described.get("opencl_float") is True)
    parts = {name: data for name, data in {**parts, **kept}.items() if name in manifest.parts}
    for name in manifest.parts:
        if name not in parts:
            raise FormatError(f"wire: part '{name}' is in the manifest, but neither made again nor kept")
        _check_part(manifest, name, parts[name], "damaged" if name in kept else "other version")
    return write_archive({ENVELOPE_NAME: envelope, **{name: parts[name] for name in sorted(parts)}})


def _made(
    manifest: Manifest, graph: Graph, tensors: Mapping[str, Float32], opencl_float: bool
) -> dict[str, bytes]:
    try:
        return bundle_parts(
            graph, tensors, manifest.preprocessing, manifest.model_name, manifest.model_version,
            float_tflite=FLOAT_TFLITE_PART in manifest.parts, opencl_float=opencl_float,
        )  # fmt: skip
    except FormatError:
        raise
    except EmberError as error:
        raise FormatError(f"wire: its parts cannot be made: {error}") from error


def _not_made_again(
    opened: Bundle, graph: Graph, tensors: Mapping[str, Float32]
) -> tuple[dict[str, bytes], bool]:
    """The parts that this version would make otherwise, and whether the OpenCL part has float plans."""
    best: tuple[dict[str, bytes], bool] | None = None
    for opencl_float in (False, True):
        made = _made(opened.manifest, graph, tensors, opencl_float)
        kept = {
            name: opened.part(name)
            for name in opened.parts
            if name not in (GRAPH_PART, WEIGHTS_PART) and made.get(name) != opened.part(name)
        }
        if best is None or len(kept) < len(best[0]):
            best = (kept, opencl_float)
        if not kept:
            break
    assert best is not None
    return best


def _sections(data: bytes) -> tuple[int, bytes, bytes, int, bytes]:
    """Largest level, head unpacked, numbers packed and their size, codes."""
    if len(data) < _START.size or not is_wire(data):
        raise FormatError("wire: not a wire file; it begins with EMBERWIR")
    _, version, most, packed_head, head_size, packed_numbers, numbers_size, codes_size = _START.unpack_from(
        data
    )
    if version != FORMAT:
        raise FormatError(f"wire: format {version}, expected {FORMAT}; fetch the full bundle")
    if head_size > MAX_HEAD_BYTES:
        raise FormatError(f"wire: a head of {head_size} bytes, expected at most {MAX_HEAD_BYTES}")
    if _START.size + packed_head + packed_numbers + codes_size != len(data):
        raise FormatError("wire: the sizes in front do not add up to the file; it is truncated or damaged")
    numbers_at = _START.size + packed_head
    head = decompress(data[_START.size : numbers_at], head_size, "head")
    numbers = data[numbers_at : numbers_at + packed_numbers]
    return most, head, numbers, numbers_size, data[numbers_at + packed_numbers :]


def _read_head(head: bytes) -> tuple[dict[str, Any], bytes, bytes, dict[str, bytes]]:
    """The description, the manifest, the graph and the kept parts."""
    length = int.from_bytes(head[:4], "little")
    if length > MAX_DESCRIPTION_BYTES:
        raise FormatError(f"wire: a description of {length} bytes, expected at most {MAX_DESCRIPTION_BYTES}")
    try:
        described = json.loads(head[4 : 4 + length])
    except (ValueError, RecursionError) as error:
        raise FormatError("wire: the head does not begin with JSON") from error
    if not isinstance(described, dict) or not isinstance(described.get("kept"), dict):
        raise FormatError("wire: the head is not an object with the parts that were kept")
    sizes = [described.get("payload"), described.get("graph"), *described["kept"].values()]
    if any(type(size) is not int or not 0 <= size <= MAX_HEAD_BYTES for size in sizes):
        raise FormatError("wire: sizes in the head that are none")
    if 4 + length + sum(sizes) != len(head):
        raise FormatError("wire: the sizes in the head do not add up to it")
    pieces: list[bytes] = []
    at = 4 + length
    for size in sizes:
        pieces.append(head[at : at + size])
        at += size
    for name in described["kept"]:
        check_part_name(name)
    return described, pieces[0], pieces[1], dict(zip(described["kept"], pieces[2:], strict=True))


def _entries(listed: object, weight_bytes: int) -> tuple[Entry, ...]:
    """The directory of tensors, none of it larger than the signed size of the weights allows."""
    if not isinstance(listed, list) or len(listed) > MAX_TENSORS:
        raise FormatError(f"wire: expected a list of at most {MAX_TENSORS} tensors")
    entries: list[Entry] = []
    for item in listed:
        match item:
            case [str() as name, list() as shape, int() as kind] if (
                all(type(axis) is int and 0 <= axis <= weight_bytes for axis in shape)
                and len(shape) <= 8
                and type(kind) is int
                and 0 <= kind < len(Kind)
            ):
                entries.append(Entry(name, tuple(shape), Kind(kind)))
            case _:
                raise FormatError(f"wire: {str(item)[:80]!r} is no tensor's name, shape and kind")
    if [entry.name for entry in entries] != sorted({entry.name for entry in entries}):
        raise FormatError("wire: the tensors are not in the order of their names")
    if 4 * sum(math.prod(entry.shape) for entry in entries) > weight_bytes:
        raise FormatError(f"wire: tensors of more than the {weight_bytes} bytes that were signed")
    return tuple(entries)


def _check_part(manifest: Manifest, name: str, data: bytes, fault: str) -> None:
    signed = manifest.parts.get(name)
    if signed is None:
        raise FormatError(f"wire: the manifest lists no '{name}'")
    if len(data) == signed.size_bytes and sha256_hex(data) == signed.sha256:
        return
    if fault == "damaged":
        raise FormatError(f"wire: '{name}' does not have the digest that was signed")
    raise ConversionError(
        f"wire: this version of Emberfleet makes another '{name}' than the one that was signed: fetch the "
        "full bundle, or open it with the version that made it"
    )
