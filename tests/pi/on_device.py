"""Runs a bundle on one machine in every way it can, retrains it, and writes down the answers.

    python on_device.py BUNDLE KEY LEARN TEST OUT

The same program runs on the emulated Pi and on the host, so that the answers can be compared. It uses nothing
but what the Debian package installs. LEARN and TEST are .safetensors files of images and labels; OUT takes
``answers.safetensors`` and ``facts.json``.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from emberfleet.core.arrays import Float32
from emberfleet.core.errors import DeviceError
from emberfleet.core.sealing import library_suite
from emberfleet.core.signing import VerifyKey
from emberfleet.core.tensors import decode_tensors, encode_tensors
from emberfleet.runtime.retraining import RetrainPlan
from emberfleet.runtime.runtime import Runtime
from emberfleet.train.data.dataset import Dataset

PLAN = RetrainPlan(scope="full", epochs=4, batch=10, rate=0.001, batch_statistics=False, seed=7)
LIBRARIES = ("numpy", "cryptography", "pyopencl", "ai-edge-litert", "tflite-runtime", "pillow")


def main(bundle: Path, key: VerifyKey, learn: Path, test: Path, out: Path) -> None:
    """Predict with litert, opencl and numpy; retrain with opencl and numpy."""
    answers: dict[str, Float32] = {}
    facts: dict[str, Any] = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "hpke": "composed" if library_suite() is None else "library",
        "libraries": {name: found for name in LIBRARIES if (found := installed(name)) is not None},
        "absent": {},
        "retrained": {},
    }
    for backend in ("litert", "opencl", "numpy"):
        try:
            runtime = Runtime.open(bundle, [key], backend)
        except DeviceError as error:
            facts["absent"][backend] = str(error)
            continue
        shown = read(test, runtime.classes)
        answers[f"logits/{backend}"] = runtime.logits(shown.images)
        facts["step"] = float(runtime.network().output_tensor.params.scale)
        if backend == "litert":
            continue
        result = runtime.retrain(read(learn, runtime.classes), PLAN, shown)
        facts["retrained"][backend] = {"before": result.before.accuracy, "after": result.after.accuracy}
        for name, tensor in result.model.tensors.items():
            answers[f"{backend}/{name}"] = tensor
    out.mkdir(parents=True, exist_ok=True)
    (out / "answers.safetensors").write_bytes(encode_tensors(answers))
    (out / "facts.json").write_text(json.dumps(facts, indent=1))


def read(path: Path, classes: tuple[str, ...]) -> Dataset:
    """Images and labels as `emberfleet device add-samples` takes them."""
    found = decode_tensors(path.read_bytes())
    return Dataset(found["images"], found["labels"].astype(np.int64), classes)


def installed(name: str) -> str | None:
    """A library's version, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main(Path(sys.argv[1]), VerifyKey.from_text(Path(sys.argv[2]).read_text()), *map(Path, sys.argv[3:6]))
