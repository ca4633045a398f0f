"""What comes as a file: bundles and their parts, wire files, lists of releases, and what is kept on disk."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from emberfleet.agent.identity import Identity
from emberfleet.agent.models import ModelStore
from emberfleet.agent.releases import ReleaseList
from emberfleet.agent.retraining import check_with
from emberfleet.agent.samples import SampleStore
from emberfleet.agent.store import RoundStore
from emberfleet.converters.bundle import build_bundle
from emberfleet.converters.wire import encode_wire, open_wire
from emberfleet.converters.wire import wire as wire_file
from emberfleet.converters.wire.packing import compress, decompress
from emberfleet.core.archive import read_archive, write_archive
from emberfleet.core.bundle import MANIFEST_TYPE, WIRE_MAGIC, Bundle, encode_bundle
from emberfleet.core.codec import encode_json
from emberfleet.core.errors import (
    ConfigError,
    ConversionError,
    DataError,
    EmberError,
    FormatError,
    SignatureError,
)
from emberfleet.core.graph import Graph
from emberfleet.core.integer_codec import decode_network, encode_network
from emberfleet.core.lowering import quantize
from emberfleet.core.manifest import ENVELOPE_NAME, Manifest
from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.releases import Release
from emberfleet.core.repository_keys import RepositoryKey
from emberfleet.core.signing import sign_envelope
from emberfleet.core.sources import HeldBytes
from emberfleet.core.tensors import decode_tensors_and_metadata, encode_tensors
from emberfleet.server.fleet import Settings
from emberfleet.server.registry.opening import open_bundle_with
from emberfleet.server.registry.policy import ReleasePolicy
from emberfleet.server.registry.repository import Repository
from emberfleet.server.storage.files import ServerFolder
from emberfleet.train.calibration.model import Calibration, calibrate_model
from tests.core.networks import bypass_network, mobile_network, random_tensors
from tests.fuzz.fuzzing import Target, scratch
from tests.fuzz.targets.messages import DEVICE, KEY
from tests.golden.make_bundle import KEY as BUNDLE_KEY
from tests.golden.make_bundle import make_graph, make_manifest, make_parts, make_tensors
from tests.train.calibration.networks import fire_model, photos

TRUSTED = (BUNDLE_KEY.verify_key,)


def tensors() -> list[Target]:
    """Tensors by name: the whole file, and its header in a good frame."""
    data = encode_tensors(make_tensors(), {"made_by": "a test"})
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length].rstrip(b" "), data[8 + length :]

    def framed(text: bytes) -> bytes:
        return len(text).to_bytes(8, "little") + text + body

    def again(found: Any) -> Any:
        return _comparable(decode_tensors_and_metadata(encode_tensors(*found)))

    def read(file: bytes) -> Any:
        values, metadata = decode_tensors_and_metadata(file)
        assert sum(value.nbytes for value in values.values()) <= len(file)
        return values, metadata

    def compared(file: bytes) -> None:
        found = read(file)
        assert again(found) == _comparable(found)

    return [Target("tensors", [data], compared), Target("tensors' header", [header], compared, wrap=framed)]


def _comparable(found: Any) -> Any:
    values, metadata = found
    return {name: (v.dtype, v.shape, v.tobytes()) for name, v in values.items()}, metadata


def containers() -> list[Target]:
    """The container of a bundle, and its manifest."""

    def packed(file: bytes) -> None:
        found = read_archive(HeldBytes(file))
        assert sum(entry.size_bytes for entry in found.entries.values()) <= len(file)

    data = encode_bundle(make_manifest(), make_parts(), BUNDLE_KEY)
    manifest = Bundle.open(data, TRUSTED).manifest.encode()
    return [
        Target("archive", [data, write_archive({"a": b"b"})], packed),
        Target(
            "Manifest", [manifest], Manifest.decode, again=lambda found: Manifest.decode(found.encode())
        ),
    ]  # fmt: skip


def bundles() -> list[Target]:
    """Bundles as devices and the server open them; also such whose manifest is signed whatever it says."""
    data = encode_bundle(make_manifest(), make_parts(), BUNDLE_KEY)
    opened = Bundle.open(data, TRUSTED)
    manifest = opened.manifest.encode()
    parts = {name: opened.part(name) for name in opened.parts}

    on_device, on_server = check_with(TRUSTED), open_bundle_with((BUNDLE_KEY.verify_key.raw,))

    def read(file: bytes) -> None:
        assert on_device(file) == on_server(file).version

    def signed(text: bytes) -> bytes:
        return write_archive({ENVELOPE_NAME: sign_envelope(MANIFEST_TYPE, text, BUNDLE_KEY), **parts})

    return [
        Target("Bundle", [data], read, (FormatError, SignatureError)),
        Target("Bundle signed", [manifest], read, wrap=signed),
    ]


def networks() -> list[Target]:
    """The graph, and the int8 network with its arrays."""
    graphs = (bypass_network(channels=1), mobile_network())
    texts, arrays = [], {}
    for number, graph in enumerate(graphs):
        text, held = encode_network(quantize(graph, random_tensors(graph)))
        texts.append(text.encode())
        arrays[number] = held

    def integers(number: int) -> Target:
        return Target(
            f"int8 network {number}", [texts[number]], lambda data: decode_network(data, arrays[number])
        )

    return [
        Target(
            "Graph", [graph.to_json().encode() for graph in (make_graph(), *graphs)], Graph.from_json,
            again=lambda found: Graph.from_json(found.to_json()),
        ),
        integers(0),
        integers(1),
    ]  # fmt: skip


def wires() -> list[Target]:
    """Wire files: the whole, and each of its parts under the compression."""
    key = BUNDLE_KEY
    bundle = build_bundle(
        calibrate_model(fire_model(), photos(), Calibration(bias=False)), 3, key, name="fires"
    )
    manifest = Bundle.open(bundle, TRUSTED).manifest
    data = encode_wire(bundle, TRUSTED)
    most, head, packed, size, codes = wire_file._sections(data)
    numbers = decompress(packed, size, "numbers")
    length = int.from_bytes(head[:4], "little")
    described, rest = head[4 : 4 + length], head[4 + length :]

    def joined(head: bytes, numbers: bytes, codes: bytes) -> bytes:
        squeezed, told = compress(head), compress(numbers)
        sizes = (len(squeezed), len(head), len(told), len(numbers), len(codes))
        start = wire_file._START.pack(WIRE_MAGIC, wire_file.FORMAT, most, *sizes)
        return b"".join((start, squeezed, told, codes))

    def with_description(text: bytes) -> bytes:
        return joined(len(text).to_bytes(4, "little") + text + rest, numbers, codes)

    def read(file: bytes) -> None:
        # Key ids and further signatures are not signed; the manifest is, and in it every part's digest.
        assert Bundle.open(open_wire(file, TRUSTED), TRUSTED).manifest == manifest

    refused = (FormatError, SignatureError, ConversionError)
    return [
        Target("wire", [data], read, refused),
        Target("wire description", [described], read, refused, wrap=with_description),
        Target("wire numbers", [numbers], read, refused, wrap=lambda found: joined(head, found, codes)),
        Target("wire codes", [codes], read, refused, wrap=lambda found: joined(head, numbers, found)),
    ]


def release_entries() -> list[Target]:
    """Entries of the list of releases, and its keys, once `tuf` has the JSON."""
    release = Release(3, "a" * 64, 1000, 50, 7)
    target = {
        "path": release.path, "length": 1000, "hashes": {"sha256": release.digest},
        "custom": release.custom(),
    }  # fmt: skip

    def entry(data: bytes) -> Release:
        fields = json.loads(data)
        # `tuf` has made sure of these types before a target is seen.
        path, length, hashes = fields["path"], fields["length"], fields["hashes"]
        if not (isinstance(path, str) and type(length) is int and isinstance(hashes, dict)):
            raise FormatError("not of tuf")
        return Release.from_target(path, length, hashes, fields["custom"])

    def key(data: bytes) -> RepositoryKey:
        fields = json.loads(data)
        return RepositoryKey.from_dict("k", fields)

    public = RepositoryKey.of(KEY.verify_key).to_dict()
    # Of JSON that is none, or has no such members, `tuf` speaks before: those inputs say nothing here.
    none = (FormatError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
    return [
        Target("release", [encode_json(target)], entry, none),
        Target("repository key", [encode_json(public)], key, none),
    ]


def release_lists() -> list[Target]:
    """The files of the list of releases as a device gets them; each input is a whole update by `tuf`."""
    folder = scratch()
    repository = Repository(folder, ReleasePolicy())
    repository.make(time.time())
    repository.bring_in_line([Release(1, "a" * 64, 10)], time.time())
    names = ("timestamp.json", "1.snapshot.json", "1.targets.json")
    files = {name: repository.read(name) or b"" for name in names}
    first = repository.first_root()

    def target(name: str) -> Target:
        def refresh(data: bytes) -> None:
            def fetch(wanted: str, limit: int) -> bytes:
                found = data if wanted == name else repository.read(wanted)
                if found is None:
                    raise RefusedError(Reason.NOT_FOUND, "none")
                if len(found) > limit:
                    raise FormatError("larger than allowed")
                return found

            shutil.rmtree(folder / "device", ignore_errors=True)
            ReleaseList(folder / "device", first, DEVICE, fetch).refresh()

        return Target(name, [files[name]], refresh, (EmberError,))

    return [target(name) for name in names]


def kept_files() -> list[Target]:
    """Files of a device's and of the server's own folder, damaged."""
    folder = scratch()
    identity = Identity(
        "https://fleet.example", DEVICE, "kitchen", KEY.verify_key.raw, (KEY.verify_key.raw,), KEY, b"{}"
    )
    KEY.save(folder / "device.key")
    identity.save(folder)
    settings = ServerFolder(folder / "server")
    settings.root.mkdir()
    Settings().save(settings)
    samples = encode_tensors({"images": np.zeros((2, 2, 2, 1), np.uint8), "labels": np.zeros(2, np.int64)})
    over = encode_json({"over": ["5e" * 16]})
    (folder / "samples").mkdir()

    def kept(path: Path, load: Callable[[], object]) -> Callable[[bytes], object]:
        def read(data: bytes) -> object:
            path.write_bytes(data)
            return load()

        return read

    models = ModelStore(folder, lambda data: 1)
    return [
        Target(
            "device.json", [(folder / "device.json").read_bytes()],
            kept(folder / "device.json", lambda: Identity.load(folder)),
        ),
        Target(
            "model.json", [encode_json({"version": 7, "serving": 6, "judged": 7})],
            kept(folder / "model.json", models.state),
        ),
        Target(
            "samples", [samples],
            kept(folder / "samples" / "a.safetensors", SampleStore(folder / "samples").load), (DataError,),
        ),
        Target(
            "rounds.json", [over], kept(folder / "rounds.json", lambda: RoundStore(folder).over()),
        ),
        Target(
            "server.json", [settings.settings.read_bytes()],
            kept(settings.settings, lambda: Settings.load(settings)), (FormatError, ConfigError),
        ),
    ]  # fmt: skip
