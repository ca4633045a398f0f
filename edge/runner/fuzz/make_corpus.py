"""Writes the seeds of the fuzz target: what a real bundle consists of, each part for the reader that gets it.

    python edge/runner/fuzz/make_corpus.py FOLDER

From them libFuzzer grew `corpus/`; `fuzz_bundle -merge=1 edge/runner/fuzz/corpus GROWN FOLDER` keeps of a
grown corpus what adds coverage. What is kept here adds lines or branches, the most for its bytes, in 200 kB.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from emberfleet.converters.opencl.part import KERNELS_FOLDER, PLAN_FILE, write_opencl_part
from emberfleet.core.bundle import Bundle, encode_bundle
from emberfleet.core.lowering import quantize
from emberfleet.core.manifest import Manifest, TensorContract
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.core.signing import SigningKey
from tests.core.networks import bypass_network, random_tensors

KEY = SigningKey(bytes(range(32)))
LABELS = ("a", "b\u00e9", "\U0001f600", '"', "\\")


def seeds() -> dict[str, bytes]:
    """The seeds by file name: the reader's letter, then its bytes."""
    graph = bypass_network(channels=1)
    tensors = random_tensors(graph)
    preprocessing = Preprocessing(9, 9, 1)
    parts = write_opencl_part(quantize(graph, tensors), preprocessing, (graph, tensors))
    small = {name: data[:64] for name, data in parts.items()}
    plan = json.loads(parts[PLAN_FILE])
    plan["plans"] = [_shortened(each) for each in plan["plans"]]
    plan["kernels"] = {
        name: hashlib.sha256(small[f"{KERNELS_FOLDER}{name}"]).hexdigest() for name in plan["kernels"]
    }
    shortened = small[PLAN_FILE] = json.dumps(plan).encode()
    manifest = Manifest(
        model_name="seed",
        model_version=1,
        created="2026-01-31T12:00:00Z",
        labels=LABELS,
        preprocessing=preprocessing,
        input=TensorContract("int8", (9, 9, 1)),
        output=TensorContract("int8", (5,)),
        plans={"head": ("classifier/weight",)},
        metrics={"accuracy": 0.5},
    )
    bundle = encode_bundle(manifest, small, KEY)
    lone = Bundle.open(encode_bundle(manifest, {"a": b"contents"}, KEY), [KEY.verify_key])
    envelope = json.dumps(
        {
            "payload": base64.b64encode(b"payload").decode(),
            "payloadType": "application/vnd.emberfleet.manifest+json",
            "signatures": [{"sig": base64.b64encode(bytes([2]) * 64).decode(), "keyid": "k"}],
        }
    )
    return {
        "bundle": b"B" + bundle,
        "manifest": b"M" + lone.manifest.encode(),
        "envelope": b"E" + envelope.encode(),
        "plan": b"P" + parts[PLAN_FILE],
        "short-plan": b"P" + shortened,
        "json": b"J" + json.dumps({"a": [1, -2.5e3, True, None, "\u00e9\U0001f600\n"]}).encode(),
    }


def _shortened(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan of one launch, whose buffers begin with the few constants that a seed carries."""
    buffers = [{**buffer, "contents": [0, 64]} for buffer in plan["buffers"]]
    return {**plan, "buffers": buffers, "first": 0, "launches": plan["launches"][:1]}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in seeds().items():
        (folder / name).write_bytes(data)
