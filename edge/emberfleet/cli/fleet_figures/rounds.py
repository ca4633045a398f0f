"""Seconds per round of a fleet of processes on loopback."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from emberfleet.cli.fleet_figures.processes import (
    TIMEOUT_S,
    DeviceSpec,
    device,
    serve_folder,
    wait_for_rounds,
)
from emberfleet.core.errors import DeviceError
from emberfleet.core.offers import Mode
from emberfleet.core.signing import SigningKey
from emberfleet.runtime.measuring import peak_mib
from emberfleet.runtime.workloads import noise, untrained_model
from emberfleet.train.models import small_squeezenet
from emberfleet.train.trained import TrainedModel

if TYPE_CHECKING:
    from emberfleet.server.storage.database import RoundRow

DEVICES: Final = 10
WIDTH: Final = 1.25
"""Of the small SqueezeNet: 102,930 parameters."""
SAMPLES: Final = 20
SECURE: Final[Mapping[str, Any]] = {"mode": Mode.SECURE}
SEALED: Final[Mapping[str, Any]] = {"mode": Mode.SEALED}


@dataclass(frozen=True, slots=True)
class FleetRun:
    """What is run.

    Attributes:
        model: That the fleet begins with.
        samples: A file with ``images`` and ``labels`` for each device.
        plan: Settings of the rounds, beside the cohort.
        backend: Where devices retrain; empty: they add one number.
    """

    model: TrainedModel
    samples: Sequence[Path]
    plan: Mapping[str, Any]
    backend: str = ""


def run_rounds(folder: Path, rounds: int, run: FleetRun) -> dict[str, Any]:
    """So many rounds in which every device takes part; the first, in which devices start up, is told apart.

    Raises:
        DeviceError: A round failed, or they were not over in time.
    """
    from emberfleet.converters.bundle import build_bundle
    from emberfleet.server.fleet import init_server, make_tokens
    from emberfleet.server.rounds.plan import RoundPlan

    folder.mkdir()
    server, count = folder / "server", len(run.samples)
    key = SigningKey.generate()
    plan = RoundPlan(cohort=count, minimum=count, pool_wait_s=TIMEOUT_S, scope="full", **run.plan)
    init_server(server, build_bundle(run.model, 1, key), (key.verify_key,), plan)
    tokens = make_tokens(server, count)
    with ExitStack() as stack:
        process, address = stack.enter_context(serve_folder(server, rounds, folder / "server.log"))
        before = processor_s(process.pid)
        devices = [
            stack.enter_context(
                device(DeviceSpec(str(folder / f"d{i}"), address, token, str(run.samples[i]), run.backend))
            )
            for i, token in enumerate(tokens)
        ]
        rows = wait_for_rounds(server, rounds, [process, *devices])
        server_s = (processor_s(process.pid) - before) / rounds
        peaks = [peak_mib(child.pid) or 0.0 for child in devices]
        server_peak = peak_mib(process.pid)
    return _facts(rows) | {
        "server_processor_s_per_round": round(server_s, 3),
        "server_peak_mib": server_peak,
        "device_peak_mib": round(statistics.median(peaks), 1),
    }


def processor_s(pid: int) -> float:
    """Seconds of processor time that a process has used; 0 where the system does not tell."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def measure_round(folder: Path, rounds: int) -> dict[str, Any]:
    """Secure rounds of ten devices whose retraining takes no time: what is timed is the protocol.

    Offers, keys, shares, masks, uploads, confirmations, the sum, the new bundle signed, stored, downloaded
    and verified by every device.
    """
    folder.mkdir()
    model = untrained_model(small_squeezenet(width=WIDTH))
    samples = folder / "samples.npz"
    images = noise(SAMPLES, model.preprocessing)
    np.savez(samples, images=images, labels=np.arange(SAMPLES) % model.graph.classes)
    return run_rounds(folder / "fleet", rounds, FleetRun(model, [samples] * DEVICES, SECURE))


def _facts(rows: Sequence[RoundRow]) -> dict[str, Any]:
    ends = [_closed(row) for row in rows]
    between = [b - a for a, b in pairwise(ends)]
    inside = [_closed(row) - (row.started_at or 0.0) for row in rows[1:]]
    return {
        "rounds": len(rows),
        "seconds_per_round": round(statistics.median(between), 3),
        "low": round(min(between), 3),
        "high": round(max(between), 3),
        "seconds_from_draw_to_model": round(statistics.median(inside), 3),
        "phases_s": _phases(rows[1:]),
        "loss": [round(row.metrics["loss"], 4) for row in rows if "loss" in row.metrics],
    }


def phase_seconds(row: RoundRow) -> dict[str, float]:
    """How long a round that is over was in each phase."""
    begins = sorted(row.entered.items(), key=lambda entry: entry[1])
    return {phase: round(end - begin, 3) for (phase, begin), (_, end) in pairwise(begins)}


def _phases(rows: Sequence[RoundRow]) -> dict[str, float]:
    each = [phase_seconds(row) for row in rows]
    return {phase: round(statistics.median(found[phase] for found in each), 3) for phase in each[0]}


def _closed(row: RoundRow) -> float:
    if row.phase != "done" or row.closed_at is None:
        raise DeviceError(f"round {row.number} is {row.phase}, expected done: {row.failure}")
    return row.closed_at
