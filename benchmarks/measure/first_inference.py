"""Signed bundles of the compared networks, and fresh processes that predict one image with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.engine.networks import MEDIUM, SQ32_FOLDED, SQ224
from benchmarks.engine.works import inference_model
from benchmarks.measure.setting import ROOT
from emberfleet.converters.bundle import build_bundle
from emberfleet.core.bundle import TFLITE_PART, Bundle
from emberfleet.core.errors import DeviceError
from emberfleet.core.signing import SigningKey

SHAPES = {"small": MEDIUM, "sq32": SQ32_FOLDED, "sq224": SQ224}
INT8, FLOAT = "int8", "float"
LITERT = "litert"
_PATHS = (ROOT, ROOT / "edge", ROOT / "converters")


@dataclass(frozen=True, slots=True)
class Packaged:
    """A network as a device gets it.

    Attributes:
        bundle: The signed file.
        tflite: Its int8 .tflite.
        key: The public key, as text.
    """

    bundle: Path
    tflite: Path
    key: str


@dataclass(frozen=True, slots=True)
class Found:
    """What one process needed.

    Attributes:
        backend: That the runtime chose.
        after_import_s: From the import of `emberfleet.runtime` to the logits.
        process_s: From the start of the process to the logits.
        peak_mib: The most memory that it held.
    """

    backend: str
    after_import_s: float
    process_s: float
    peak_mib: float


def package(name: str, folder: Path) -> Packaged:
    """Build and sign the bundle of a network in `SHAPES`."""
    key = SigningKey.generate()
    made = Packaged(folder / f"{name}.ember", folder / f"{name}.tflite", key.verify_key.text)
    data = build_bundle(inference_model(SHAPES[name]), 1, key, made.bundle)
    made.tflite.write_bytes(Bundle.open(data, [key.verify_key]).part(TFLITE_PART))
    return made


def empty_caches(folder: Path) -> dict[str, str]:
    """An environment in which no kernel is remembered; Python keeps byte code, as where it is installed."""
    (folder / "pocl").mkdir(parents=True)
    return {
        "XDG_CACHE_HOME": str(folder), "POCL_CACHE_DIR": str(folder / "pocl"), "PYOPENCL_NO_CACHE": "1",
        "PYTHONPYCACHEPREFIX": str(folder.parent / "bytecode"), "PYTHONDONTWRITEBYTECODE": "",
    }  # fmt: skip


def run(model: Packaged, how: str, precision: str, environment: Mapping[str, str]) -> Found:
    """One process; `how` is a backend of `Runtime`, ``auto``, or `LITERT`, the interpreter alone.

    Raises:
        DeviceError: it failed; carries what it said.
    """
    ours = [how, str(model.bundle), model.key, precision]
    arguments = [LITERT, str(model.tflite)] if how == LITERT else ours
    paths = os.pathsep.join(str(path) for path in _PATHS)
    begin = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.measure.one_inference", *arguments],
        env={**os.environ, **environment, "PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise DeviceError(done.stderr.strip().rpartition("\n")[2][-300:])
    said: dict[str, Any] = json.loads(done.stdout)
    return Found(said["backend"], said["seconds"], said["done"] - begin, said["peak_mib"])
