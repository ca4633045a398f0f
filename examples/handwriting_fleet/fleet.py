"""The fleet of the demo: one server process, and one process per device, joined by HTTP alone."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from emberfleet.agent.rounds.training import Retrained
from emberfleet.agent.samples import Samples
from emberfleet.core.codec import Scalar
from emberfleet.train.data.dataset import Dataset

START_TIMEOUT_S = 60.0
PRELOADED = ["__main__", "emberfleet.agent.retraining", "emberfleet.runtime.local_training"]
FIRST_RUN = "first-run.json"
"""What a device found when it first ran the model on its own samples."""
TRAINING_MARK = "training-now"
"""A file that exists in a device's folder while that device trains."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server on loopback, and what it says of itself."""

    folder: Path
    address: str

    def status(self) -> dict[str, Any]:
        """The server's own account of model, devices and rounds."""
        found: dict[str, Any] = httpx.get(f"{self.address}/v1/status", timeout=10).json()
        return found

    def bundle(self, version: int) -> Path:
        """The file of a published model."""
        return self.folder / "models" / f"{version:06d}.ember"

    def update_bytes(self) -> int:
        """The size of an update as a device sent it; 0 where none lies in the server's folder now."""
        with contextlib.suppress(FileNotFoundError):
            return max((path.stat().st_size for path in self.folder.glob("rounds/*/*.update")), default=0)
        return 0


def command(*arguments: str) -> list[str]:
    """The `emberfleet` command line of this Python."""
    return [sys.executable, "-m", "emberfleet.cli", *arguments]


def make_server(folder: Path, bundle: Path, trusted: str, plan: Mapping[str, Any]) -> None:
    """`emberfleet server init`, with the settings of every round."""
    settings = [f"--set={name}={json.dumps(value)}" for name, value in plan.items()]
    subprocess.run(
        command("server", "init", str(folder), "--bundle", str(bundle), "--trust", trusted, *settings),
        check=True,
        stdout=subprocess.DEVNULL,
    )


def make_tokens(folder: Path, count: int) -> list[str]:
    """`emberfleet server token`: one secret for each device to come."""
    done = subprocess.run(
        command("server", "token", str(folder), "--count", str(count), "--json"),
        check=True,
        capture_output=True,
    )
    tokens: list[str] = json.loads(done.stdout)["tokens"]
    return tokens


@contextmanager
def serve(folder: Path, rounds: int, log: Path) -> Iterator[RunningServer]:
    """`emberfleet server run` on a free port, until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command("server", "run", str(folder), "--port", "0", "--rounds", str(rounds)),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield RunningServer(folder, _address(process, log))
        finally:
            process.terminate()
            process.wait(timeout=20)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text("utf-8", "replace"))
        if found:
            return found[0]
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start; its log:\n{log.read_text('utf-8', 'replace')[-2000:]}")


@dataclass(frozen=True, slots=True)
class Owner:
    """A person with a device: a name and their own handwriting."""

    name: str
    samples: Dataset


@dataclass(frozen=True, slots=True)
class Device:
    """A device's process, seen from outside."""

    owner: Owner
    folder: Path
    process: BaseProcess

    @property
    def training(self) -> bool:
        """Whether it is training now."""
        return (self.folder / TRAINING_MARK).exists()

    def has_model(self, version: int) -> bool:
        """Whether it has fetched, verified and installed this model."""
        return (self.folder / f"model-{version:06d}.ember").exists()

    def kill(self) -> None:
        """Take its power away: nothing in the process can react."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()


@contextmanager
def devices(
    owners: Sequence[Owner], folder: Path, address: str, tokens: Sequence[str], backend: str
) -> Iterator[list[Device]]:
    """One process per owner; each makes its own key and enrols by itself. All end with the block."""
    context = multiprocessing.get_context("forkserver")
    # The template that every device is forked from has loaded the code, and opened no device.
    context.set_forkserver_preload(
        [
            "__main__",
            "emberfleet.agent.agent",
            "emberfleet.agent.retraining",
            "emberfleet.runtime.local_training",
        ]
    )
    started: list[Device] = []
    try:
        for owner, token in zip(owners, tokens, strict=True):
            place = folder / owner.name
            arguments = (
                place,
                address,
                token,
                owner.name,
                owner.samples.images,
                owner.samples.labels,
                backend,
            )
            process = context.Process(target=live, args=arguments, name=owner.name, daemon=True)
            process.start()
            started.append(Device(owner, place, process))
        yield started
    finally:
        for device in started:
            device.process.terminate()
        for device in started:
            device.process.join(10)


def live(
    folder: Path,
    address: str,
    token: str,
    name: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    backend: str,
) -> None:
    """A device's whole life: enrol once, keep the samples, take part in rounds until it is stopped."""
    from emberfleet.agent.agent import Agent
    from emberfleet.agent.client import enrol_device
    from emberfleet.agent.retraining import check_with, retrain_with
    from emberfleet.runtime.runtime import Runtime

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    identity = enrol_device(address, token, folder, name)
    mark = folder / TRAINING_MARK
    train = retrain_with(identity.trusted, backend, threads=1)

    def retrain(bundle: Path, samples: Samples, training: Mapping[str, Scalar], seed: int) -> Retrained:
        mark.touch()
        try:
            return train(bundle, samples, training, seed)
        finally:
            mark.unlink(missing_ok=True)

    def run_first(bundle: Path) -> None:
        """Run the model that came with the enrolment on this device's own handwriting."""
        if not (folder / FIRST_RUN).exists():
            runtime = Runtime.open(bundle, identity.trusted, threads=1)
            found = runtime.evaluate(Dataset(images, labels, runtime.classes))
            facts = {"model": runtime.version, "backend": runtime.backend, "accuracy": found.accuracy}
            (folder / FIRST_RUN).write_text(json.dumps(facts), "utf-8")

    # Other people's handwriting judges the models here, so a device may learn from all of its own.
    agent = Agent(folder, retrain, check_with(identity.trusted), on_model=run_first, held_out=0.0)
    agent.samples.add(images, labels)
    agent.run_forever(threading.Event())
