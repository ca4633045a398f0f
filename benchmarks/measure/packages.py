"""Bytes of a bundle and of an update, and milliseconds to sign, open, seal and unseal them.

``python -m benchmarks.measure.packages NAME`` is the child that does one of `WORKS`, on the small net.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from benchmarks.measure.setting import ROOT, Setting
from emberfleet.converters.bundle import build_bundle, model_of, network_of
from emberfleet.core.bundle import TFLITE_PART, Bundle, encode_bundle
from emberfleet.core.messages import SEAL_INFO, UpdateHeader, Upload
from emberfleet.core.sealing import SealingKey, open_sealed, seal
from emberfleet.core.signing import SigningKey
from emberfleet.core.updates import UpdatePlan, encode_update, read_update
from emberfleet.runtime.measuring import MeasuredProcess, interleave, serve
from emberfleet.runtime.workloads import built_in_model
from emberfleet.train.plans import FULL, scope_named


class Repeated:
    """A call with fixed facts."""

    def __init__(self, call: Callable[[], object], facts: Mapping[str, Any]) -> None:
        self._call, self._facts = call, dict(facts)

    def call(self) -> None:
        """Once more."""
        self._call()

    def facts(self) -> dict[str, Any]:
        """Sizes in bytes."""
        return self._facts


def build() -> Repeated:
    """Quantize, write the .tflite and the OpenCL part, sign."""
    model, key = built_in_model(), SigningKey.generate()
    data = build_bundle(model, 1, key)
    tflite = Bundle.open(data, [key.verify_key]).part(TFLITE_PART)
    sizes = {"bundle_bytes": len(data), "tflite_bytes": len(tflite)}
    return Repeated(lambda: build_bundle(model, 1, key), sizes)


def sign() -> Repeated:
    """Digest the parts, sign the manifest, put the file together."""
    from dataclasses import replace

    key = SigningKey.generate()
    bundle = Bundle.open(build_bundle(built_in_model(), 1, key), [key.verify_key])
    parts = {name: bundle.part(name) for name in bundle.parts}
    manifest = replace(bundle.manifest, parts={})
    return Repeated(lambda: encode_bundle(manifest, parts, key), {})


def open_() -> Repeated:
    """Verify signature and digests."""
    key = SigningKey.generate()
    data = build_bundle(built_in_model(), 1, key)
    return Repeated(lambda: Bundle.open(data, [key.verify_key]), {})


def load() -> Repeated:
    """Verify, and read the network and the weights."""
    key = SigningKey.generate()
    data = build_bundle(built_in_model(), 1, key)

    def call() -> None:
        bundle = Bundle.open(data, [key.verify_key])
        model_of(bundle)
        network_of(bundle)

    return Repeated(call, {})


def _update(bits: int) -> tuple[Callable[[], bytes], Callable[[bytes], object]]:
    """How a device makes an upload of all tensors, and how the server opens it."""
    model = built_in_model()
    names = scope_named(model.graph, FULL).tensors
    old = {name: model.tensors[name] for name in names}
    new = {name: value * 1.01 for name, value in old.items()}
    plan = UpdatePlan.for_model(old, names, bits)
    key = SealingKey.generate()
    header = UpdateHeader("0" * 32, 1, "0" * 32, 60, {"loss": 0.5}).encode()

    def make() -> bytes:
        return Upload.join(header, seal(key.public, encode_update(old, new, plan), SEAL_INFO, header))

    def take(body: bytes) -> object:
        upload = Upload.decode(body)
        return read_update(open_sealed(key, upload.sealed, SEAL_INFO, upload.associated_data), plan)

    return make, take


def _sealing(bits: int) -> Repeated:
    make, _ = _update(bits)
    return Repeated(make, {"update_bytes": len(make())})


def _unsealing(bits: int) -> Repeated:
    make, take = _update(bits)
    body = make()
    return Repeated(lambda: take(body), {})


WORKS: Mapping[str, Callable[[], Repeated]] = {
    "build bundle": build,
    "sign bundle": sign,
    "open bundle": open_,
    "open bundle and read it": load,
    "seal update, 8 bits": lambda: _sealing(8),
    "unseal update, 8 bits": lambda: _unsealing(8),
    "seal update, 16 bits": lambda: _sealing(16),
    "unseal update, 16 bits": lambda: _unsealing(16),
}


def measure(setting: Setting) -> dict[str, Any]:
    """Sizes, and a row for each of `WORKS`."""
    rows: list[dict[str, Any]] = []
    sizes: dict[str, int] = {}
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                MeasuredProcess(name, [sys.executable, "-m", __name__, name], threads=1, paths=(ROOT,))
            )
            for name in WORKS
        ]
        for name, result in zip(
            WORKS, interleave(processes, setting.samples, setting.seconds / 5), strict=True
        ):
            assert result.timing is not None
            rows.append({"work": name, "ms": result.timing.to_json()})
            bits = name.removesuffix(" bits").rpartition(" ")[2]
            for fact, value in result.facts.items():
                if fact.endswith("_bytes"):
                    sizes[f"update_{bits}_bit_bytes" if fact == "update_bytes" else fact] = value
    return {"net": "small", **sizes, "rows": rows}


if __name__ == "__main__":
    serve(WORKS[sys.argv[1]])
