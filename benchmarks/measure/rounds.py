"""Seconds per round on loopback: a server process and ten device processes, joined by HTTP alone.

Once with a retraining that adds one number to every tensor, so that what is timed is the protocol:
offers, signatures, sealing, upload, averaging, the new bundle signed, stored, downloaded and verified by
every device. And once with the real retraining on real handwriting.

``python -m benchmarks.measure.rounds JSON`` is one device.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure.setting import ROOT, Setting
from emberfleet.agent.agent import Agent
from emberfleet.agent.client import enrol_device
from emberfleet.agent.retraining import check_with, retrain_with
from emberfleet.agent.rounds import Retrained
from emberfleet.agent.samples import Samples
from emberfleet.converters.bundle import build_bundle
from emberfleet.core.bundle import Bundle
from emberfleet.core.codec import Scalar
from emberfleet.core.errors import DeviceError
from emberfleet.core.signing import SigningKey
from emberfleet.runtime.measuring import peak_mib, thread_environment
from emberfleet.runtime.workloads import built_in_model
from emberfleet.server.fleet import init_server, make_tokens
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.storage.database import Database, RoundRow
from emberfleet.server.storage.files import ServerFolder
from emberfleet.train.data.names import load

DEVICES = 10
TIMEOUT_S = 120.0
HANDWRITING = ROOT / "examples" / "data" / "handwriting"
TRAINING: Mapping[str, Scalar] = {
    "epochs": 3, "batch": 16, "rate": 0.05, "schedule": "constant", "shift": 1.5, "rotation_degrees": 8.0,
    "scale": 0.1,
}  # fmt: skip
"""As the demo's devices train."""


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """What one device process is told."""

    folder: str
    address: str
    token: str
    samples: str
    backend: str
    """Empty: the trivial retraining."""


def measure(setting: Setting) -> dict[str, Any]:
    """Seconds of rounds without and with training."""
    found = {"devices": DEVICES, "net": "small", "bits": 16}
    count = 2 if setting.quick else 8
    found["protocol"] = _run(setting.folder / "protocol", count, backend="", training={})
    if not setting.quick:
        found["training"] = _run(setting.folder / "training", 4, backend="auto", training=TRAINING)
    return found


def _run(folder: Path, rounds: int, backend: str, training: Mapping[str, Scalar]) -> dict[str, Any]:
    """So many rounds; the first, in which devices start up, is told apart."""
    folder.mkdir()
    server = folder / "server"
    key = SigningKey.generate()
    plan = RoundPlan(
        cohort=DEVICES, minimum=DEVICES, pool_wait_s=TIMEOUT_S, scope="full", training={**training}
    )
    init_server(server, build_bundle(built_in_model(), 1, key), (key.verify_key,), plan)
    tokens = make_tokens(server, DEVICES)
    sizes = _write_samples(folder)
    with ExitStack() as stack:
        process, address = stack.enter_context(_serve(server, rounds, folder / "server.log"))
        devices = [
            stack.enter_context(
                _device(DeviceSpec(str(folder / f"d{i}"), address, token, str(folder / f"{i}.npz"), backend))
            )
            for i, token in enumerate(tokens)
        ]
        before, begin = _processor_s(process.pid), time.monotonic()
        rows = _wait(server, rounds, [process, *devices])
        server_s = (_processor_s(process.pid) - before) / rounds
        peaks = [peak_mib(device.pid) or 0.0 for device in devices]
        server_peak = peak_mib(process.pid)
        seconds_in_all = time.monotonic() - begin
    later = rows[1:]
    ends = [_closed(row) for row in rows]
    between = [b - a for a, b in pairwise(ends)]
    inside = [_closed(row) - (row.started_at or 0.0) for row in later]
    return {
        "rounds": len(rows),
        "seconds_per_round": round(statistics.median(between), 3),
        "low": round(min(between), 3),
        "high": round(max(between), 3),
        "seconds_from_draw_to_model": round(statistics.median(inside), 3),
        "seconds_to_first_model": round(seconds_in_all - (ends[-1] - ends[0]), 2),
        "samples_per_device": sizes,
        "server_processor_s_per_round": round(server_s, 3),
        "server_peak_mib": server_peak,
        "device_peak_mib": round(statistics.median(peaks), 1),
        "loss": [round(row.metrics["loss"], 4) for row in rows if "loss" in row.metrics],
    }


def _closed(row: RoundRow) -> float:
    if row.phase != "done" or row.closed_at is None:
        raise DeviceError(f"round {row.number} is {row.phase}, expected done: {row.failure}")
    return row.closed_at


def _write_samples(folder: Path) -> int:
    """Ten people's handwriting, a file for each device; gives the median number of images."""
    pooled = load("handwriting", HANDWRITING, "devices")
    assert pooled.writers is not None
    sizes = []
    for i, writer in enumerate(np.unique(pooled.writers)[:DEVICES]):
        own = pooled.subset(pooled.writers == writer)
        np.savez(folder / f"{i}.npz", images=own.images, labels=own.labels)
        sizes.append(len(own))
    return int(statistics.median(sizes))


@contextmanager
def _serve(folder: Path, rounds: int, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`emberfleet server run` on a free port."""
    command = [sys.executable, "-m", "emberfleet.cli", "server", "run", str(folder)]
    with (
        log.open("wb") as output,
        _ended(
            subprocess.Popen([*command, "--port", "0", "--rounds", str(rounds)], stdout=output, stderr=output)
        ) as process,
    ):
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end and process.poll() is None:
            found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text("utf-8", "replace"))
            if found:
                yield process, found[0]
                return
            time.sleep(0.02)
        raise DeviceError(f"the server did not start: {log.read_text('utf-8', 'replace')[-1000:]}")


@contextmanager
def _device(spec: DeviceSpec) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, **thread_environment(1)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry)])
    command = [sys.executable, "-m", "benchmarks.measure.rounds", json.dumps(asdict(spec))]
    with _ended(subprocess.Popen(command, env=environment)) as process:
        yield process


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive the block."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(folder: Path, rounds: int, processes: Sequence[subprocess.Popen[bytes]]) -> list[RoundRow]:
    """Read the server's database now and then until so many rounds are over."""
    database = Database.in_file(ServerFolder(folder).database)
    end = time.monotonic() + TIMEOUT_S
    try:
        while time.monotonic() < end:
            rows = database.rounds()
            over = [row for row in rows if row.closed_at is not None]
            if len(over) >= rounds:
                return over
            ended = [process.args for process in processes if process.poll() is not None]
            if ended:
                raise DeviceError(f"{len(ended)} processes of the fleet ended by themselves")
            time.sleep(0.1)
    finally:
        database.close()
    raise DeviceError(f"{rounds} rounds were not over after {TIMEOUT_S:.0f} s: {rows[-2:]}")


def _processor_s(pid: int) -> float:
    """Seconds of processor time that a process has used; 0 where the system does not tell."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def live(spec: DeviceSpec) -> None:
    """A device: enrol, keep the samples, take part until terminated."""
    folder = Path(spec.folder)
    identity = enrol_device(spec.address, spec.token, folder, folder.name)

    def add_one(bundle: Path, samples: Samples, training: Mapping[str, Scalar], seed: int) -> Retrained:
        old = Bundle.open(bundle, identity.trusted).tensors()
        new = {name: value + np.float32(1e-4) for name, value in old.items()}
        return Retrained(old, new, len(samples.images))

    retrain = retrain_with(identity.trusted, spec.backend, 1) if spec.backend else add_one
    agent = Agent(folder, retrain, check_with(identity.trusted))
    with np.load(spec.samples) as stored:
        agent.samples.add(stored["images"], stored["labels"])
    agent.run_forever(threading.Event())


if __name__ == "__main__":
    live(DeviceSpec(**json.loads(sys.argv[1])))
