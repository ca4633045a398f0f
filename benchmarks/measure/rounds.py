"""Seconds per round on loopback: a server process and ten device processes, joined by HTTP alone.

Secure and sealed rounds with a retraining that adds one number to every tensor, so that what is timed is the
protocol: offers, signatures, masks or seals, uploads, the sum or the average, the new bundle signed, stored,
downloaded and verified by every device. And secure ones with the real retraining on real handwriting.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure.setting import ROOT, Setting
from emberfleet.cli.fleet_figures.rounds import DEVICES, SEALED, SECURE, FleetRun, run_rounds
from emberfleet.core.codec import Scalar
from emberfleet.runtime.workloads import built_in_model
from emberfleet.train.data.names import load

HANDWRITING = ROOT / "examples" / "data" / "handwriting"
TRAINING: Mapping[str, Scalar] = {
    "epochs": 3, "batch": 16, "rate": 0.05, "schedule": "constant", "shift": 1.5, "rotation_degrees": 8.0,
    "scale": 0.1,
}  # fmt: skip
"""As the demo's devices train."""


def measure(setting: Setting) -> dict[str, Any]:
    """Seconds of rounds without and with training."""
    samples = _write_samples(setting.folder)
    found = {"devices": DEVICES, "net": "small", "bits": 16, "samples_per_device": _median_size(samples)}
    model = built_in_model()
    count = 2 if setting.quick else 8
    for name, mode in (("secure", SECURE), ("sealed", SEALED)):
        found[name] = run_rounds(setting.folder / name, count, FleetRun(model, samples, mode))
    if not setting.quick:
        run = FleetRun(model, samples, {**SECURE, "training": TRAINING}, "auto")
        found["training"] = run_rounds(setting.folder / "training", 4, run)
    return found


def _write_samples(folder: Path) -> list[Path]:
    """Ten people's handwriting, a file for each device."""
    pooled = load("handwriting", HANDWRITING, "devices")
    assert pooled.writers is not None
    paths = []
    for i, writer in enumerate(np.unique(pooled.writers)[:DEVICES]):
        own = pooled.subset(pooled.writers == writer)
        paths.append(folder / f"{i}.npz")
        np.savez(paths[-1], images=own.images, labels=own.labels)
    return paths


def _median_size(samples: list[Path]) -> int:
    sizes = []
    for path in samples:
        with np.load(path) as stored:
            sizes.append(len(stored["labels"]))
    return int(statistics.median(sizes))
