"""Bundles that the native runner is tested on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from emberfleet.converters.bundle import build_bundle
from emberfleet.converters.opencl.part import PLAN_FILE
from emberfleet.core.archive import write_archive
from emberfleet.core.bundle import MANIFEST_TYPE, Bundle, encode_bundle
from emberfleet.core.manifest import ENVELOPE_NAME, Manifest
from emberfleet.core.signing import SigningKey, sign_envelope
from tests.runtime.stripes import trained

KEY = SigningKey(bytes(range(32)))
OTHER_KEY = SigningKey(bytes(32))
TRUSTED = (KEY.verify_key.raw,)


def signed_bundle(positions: int = 1) -> bytes:
    """A small trained network, with int8 and float32 plans."""
    return build_bundle(trained(positions), 3, KEY, name="stripes", opencl_float=True)


def with_parts(data: bytes, changed: Mapping[str, bytes]) -> bytes:
    """The bundle with other parts, signed by the same key."""
    bundle = Bundle.open(data, [KEY.verify_key])
    parts = {name: bundle.part(name) for name in bundle.parts} | dict(changed)
    return encode_bundle(Manifest.from_json({**bundle.manifest.to_json(), "parts": {}}), parts, KEY)


def with_plan(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The bundle with a changed plan.json, signed by the same key: a hostile publisher's."""
    plan = json.loads(Bundle.open(data, [KEY.verify_key]).part(PLAN_FILE))
    change(plan)
    return with_parts(data, {PLAN_FILE: json.dumps(plan).encode()})


def with_first_label(data: bytes, label: str) -> bytes:
    """The bundle with another first label, whatever it is, signed by the same key."""
    bundle = Bundle.open(data, [KEY.verify_key])
    manifest = bundle.manifest.to_json()
    manifest["labels"] = [label, *manifest["labels"][1:]]
    envelope = sign_envelope(MANIFEST_TYPE, json.dumps(manifest).encode(), KEY)
    return write_archive({ENVELOPE_NAME: envelope, **{name: bundle.part(name) for name in bundle.parts}})
