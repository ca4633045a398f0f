"""A real fleet on loopback: a server process and device processes, joined by HTTP alone.

``python -m emberfleet.cli.fleet_figures.processes JSON`` is one device, JSON its `DeviceSpec`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from emberfleet.agent.agent import Agent
from emberfleet.agent.client import enrol_device
from emberfleet.agent.retraining import check_with, retrain_with
from emberfleet.agent.rounds.training import Retrained
from emberfleet.agent.samples import Samples
from emberfleet.cli.fleet_figures.children import child_environment
from emberfleet.core.bundle import Bundle
from emberfleet.core.codec import Scalar
from emberfleet.core.errors import DeviceError
from emberfleet.runtime.measuring import thread_environment

if TYPE_CHECKING:
    from emberfleet.server.storage.database import RoundRow

TIMEOUT_S: Final = 120.0
SMALL_STEP: Final = 1e-4
SHOWN_LOG: Final = 1500


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """What one device process is told.

    Attributes:
        backend: Where it retrains; empty: it adds one number to every tensor, which takes no time.
    """

    folder: str
    address: str
    token: str
    samples: str
    backend: str = ""


@contextmanager
def serve_folder(folder: Path, rounds: int, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`emberfleet server run` on a free port, with its address."""
    command = [sys.executable, "-m", "emberfleet.cli", "server", "run", str(folder)]
    command += ["--port", "0", "--rounds", str(rounds)]
    with (
        log.open("wb") as output,
        ended(subprocess.Popen(command, env=child_environment(), stdout=output, stderr=output)) as process,
    ):
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end and process.poll() is None:
            found = re.search(r"https?://127\.0\.0\.1:\d+", _text(log))
            if found:
                yield process, found[0]
                return
            time.sleep(0.02)
        raise DeviceError(f"the server did not start: {_text(log)[-SHOWN_LOG:]}")


@contextmanager
def device(spec: DeviceSpec) -> Iterator[subprocess.Popen[bytes]]:
    """A device process with a single thread of computing."""
    command = [sys.executable, "-m", __name__, json.dumps(asdict(spec))]
    environment = {**child_environment(), **thread_environment(1)}
    with ended(subprocess.Popen(command, env=environment)) as process:
        yield process


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
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


def wait_for_rounds(
    folder: Path, rounds: int, processes: Sequence[subprocess.Popen[bytes]], timeout_s: float = TIMEOUT_S
) -> list[RoundRow]:
    """Read the server's database now and then until so many rounds are over.

    Raises:
        DeviceError: They were not in time, or a process ended by itself.
    """
    from emberfleet.server.storage.database import Database
    from emberfleet.server.storage.files import ServerFolder

    database = Database.in_file(ServerFolder(folder).database)
    end = time.monotonic() + timeout_s
    try:
        while time.monotonic() < end:
            rows = database.rounds()
            over = [row for row in rows if row.closed_at is not None]
            if len(over) >= rounds:
                return over
            dead = [process for process in processes if process.poll() is not None]
            if dead:
                raise DeviceError(f"{len(dead)} processes of the fleet ended by themselves")
            time.sleep(0.1)
    finally:
        database.close()
    last = ", ".join(f"round {row.number} in phase {row.phase}" for row in rows[-2:])
    raise DeviceError(f"{rounds} rounds were not over after {timeout_s:.0f} s: {last}")


def live(spec: DeviceSpec) -> None:
    """A device: enrol, keep the samples, take part until terminated."""
    folder = Path(spec.folder)
    identity = enrol_device(spec.address, spec.token, folder, folder.name, allow_sealed=True)

    def add_one(bundle: Path, samples: Samples, training: Mapping[str, Scalar], seed: int) -> Retrained:
        old = Bundle.open(bundle, identity.trusted).tensors()
        new = {name: value + np.float32(SMALL_STEP) for name, value in old.items()}
        return Retrained(old, new, len(samples.images))

    retrain = retrain_with(identity.trusted, spec.backend, 1) if spec.backend else add_one
    agent = Agent(folder, retrain, check_with(identity.trusted))
    with np.load(spec.samples) as stored:
        agent.samples.add(stored["images"], stored["labels"])
    agent.run_forever(threading.Event())


def _text(log: Path) -> str:
    return log.read_text("utf-8", "replace")


if __name__ == "__main__":
    live(DeviceSpec(**json.loads(sys.argv[1])))
