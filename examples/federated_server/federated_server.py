"""A fleet on one's own machine, step by step: a server, three devices, one round.

    python examples/federated_server/federated_server.py

Every step is a command of `emberfleet`, printed before it runs, so that it can be typed by hand as
well. The three devices are three people of the handwriting that the repository carries; their
pictures stay in their folders, and what they learn leaves them encrypted.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from emberfleet.agent.identity import Identity
from emberfleet.runtime import Runtime
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.data.names import load
from emberfleet.train.report.pictures import encode_png

HANDWRITING = Path(__file__).resolve().parents[1] / "data" / "handwriting"
NAMES = ("anna", "bert", "chloe")
PATIENCE_S = 180.0


def main() -> None:
    """Walk through the life of a small fleet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/federated_server"))
    parser.add_argument("--epochs", type=int, default=10, help="of the first model")
    parser.add_argument("--backend", default="auto", help="auto, opencl or numpy")
    options = parser.parse_args()
    out: Path = options.out
    if (out / "server").exists():
        sys.exit(f"{out} holds a fleet already: remove it, or choose another folder with --out")
    shell = Shell(out)
    address = f"http://127.0.0.1:{free_port()}"

    step("Pictures of eight people, and of three others, each of whom is a device")
    write_pictures(out / "pictures", load("handwriting", HANDWRITING, "base"))
    devices = load("handwriting", HANDWRITING, "devices")
    assert devices.writers is not None
    busiest = np.argsort(-np.bincount(devices.writers))[: len(NAMES)]
    for name, writer in zip(NAMES, busiest, strict=True):
        write_pictures(out / f"pictures-of-{name}", devices.subset(devices.writers == writer))

    step("Train a first model on the eight, and sign it")
    shell.run("train", "--data", "folder", "--root", "pictures", "--size", "28", "--channels", "1",
              "--width", "0.75", "--epochs", options.epochs, "--quantize-epochs", "2", "--patience", "0",
              "--backend", options.backend, "--out", "first-model")  # fmt: skip
    signed_by = shell.json("convert", "first-model", "--out", "first.ember")["signed_by"]

    step("Make the server. A round wants three updates; each device retrains the whole network")
    shell.run("server", "init", "server", "--bundle", "first.ember", "--trust", signed_by,
              "--set", "cohort=3", "--set", "minimum=3", "--set", "scope=full", "--set", "lease_s=60",
              "--set", "training.epochs=3", "--set", "training.rate=0.01")  # fmt: skip
    tokens = shell.json("server", "token", "server", "--count", "3")["tokens"]

    with ExitStack() as running:
        step("Start the server; it stops opening rounds after the first")
        port = address.rsplit(":", 1)[1]
        running.enter_context(shell.background("server", "run", "server", "--port", port, "--rounds", "1"))
        wait_until(lambda: answers(int(port)), "the server answers")

        step("Each device spends a token, makes its own key, and takes pictures")
        for name, token in zip(NAMES, tokens, strict=True):
            shell.run("device", "enrol", name, "--server", address, "--token", token, "--name", name)
            shell.run("device", "add-samples", name, f"pictures-of-{name}")

        step("All three take part: retrain, encrypt what they learnt to the server, which averages it")
        for name in NAMES:
            running.enter_context(shell.background("device", "run", name, "--backend", options.backend))
        wait_until(lambda: round_is_over(address), "the round is over")
        wait_until(
            lambda: all(shell.quietly("device", "status", name)["model_version"] == 2 for name in NAMES),
            "every device has model 2",
        )

    step("What came of it")
    shell.run("server", "status", "server")
    shell.run("device", "status", NAMES[0])
    compare(out, load("handwriting", HANDWRITING, "test"))


class Shell:
    """Runs `emberfleet` in a folder, and prints what is typed and what comes back."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        # The key that signs models lies in the user's settings; this walk-through has settings of its own.
        self.environment = {**os.environ, "XDG_CONFIG_HOME": str(self.folder / "settings"), "NO_COLOR": "1"}

    def run(self, *words: object) -> str:
        """Run a command to its end; a command that fails ends the walk."""
        print(f"\n$ emberfleet {shlex.join(map(str, words))}", flush=True)
        done = self._call(words)
        shown = done.stdout + done.stderr
        print("".join(f"  {line}\n" for line in shown.splitlines()), end="", flush=True)
        if done.returncode:
            sys.exit(f"the command ended with {done.returncode}")
        return done.stdout

    def json(self, *words: object) -> dict[str, Any]:
        """Run a command that a program reads."""
        found: dict[str, Any] = json.loads(self.run(*words, "--json"))
        return found

    def quietly(self, *words: object) -> dict[str, Any]:
        """The same without showing it: for waiting."""
        done = self._call((*words, "--json"))
        if done.returncode:
            sys.exit(done.stderr)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    @contextmanager
    def background(self, *words: object) -> Iterator[None]:
        """Run a command beside the walk and end it afterwards; shows then what it said."""
        typed = shlex.join(map(str, words))
        print(f"\n$ emberfleet {typed} &", flush=True)
        log = self.folder / f"{words[0]}-{words[2]}.log"
        with open(log, "w") as stream:
            process = subprocess.Popen(
                self._command(words), cwd=self.folder, env=self.environment, stdout=stream, stderr=stream
            )
        try:
            yield
        finally:
            process.terminate()
            process.wait()
            print(f"\nemberfleet {typed} said:")
            print("".join(f"  {line}\n" for line in log.read_text().splitlines()), end="", flush=True)

    def _call(self, words: Sequence[object]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(words), cwd=self.folder, env=self.environment, capture_output=True, text=True
        )

    def _command(self, words: Sequence[object]) -> list[str]:
        return [sys.executable, "-m", "emberfleet.cli", *map(str, words)]


def compare(out: Path, test: Dataset) -> None:
    """How well the first and the second model read people who are neither base nor device."""
    trusted = Identity.load(out / NAMES[0]).trusted
    print()
    for version, file in ((1, out / "first.ember"), (2, out / "server" / "models" / "000002.ember")):
        accuracy = Runtime.open(file, trusted).evaluate(test).accuracy
        print(f"model {version}: {accuracy * 100:.2f} % of {len(test):,} digits by 60 other people")


def write_pictures(folder: Path, data: Dataset) -> None:
    """PNG files, one sub-folder for each class."""
    for n, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
        path = folder / data.classes[label] / f"{n:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(image))
    print(f"  {folder}: {len(data)} pictures")


def round_is_over(address: str) -> bool:
    """Whether the first round ended, well or not; the server says so to everybody who asks."""
    rounds = httpx.get(f"{address}/v1/status").json()["rounds"]
    return any(entry["phase"] in ("done", "failed") for entry in rounds)


def step(words: str) -> None:
    """A heading."""
    print(f"\n== {words}.", flush=True)


def wait_until(fulfilled: Callable[[], bool], what: str) -> None:
    """Look twice a second; give up after three minutes."""
    end = time.monotonic() + PATIENCE_S
    while not fulfilled():
        if time.monotonic() > end:
            sys.exit(f"gave up waiting until {what}")
        time.sleep(0.5)


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
