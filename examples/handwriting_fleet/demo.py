"""Sixty people's devices teach one model to read handwriting, and nobody's handwriting leaves its device.

Run by `make demo`. It trains a base model on 8 writers, packages it, starts a server and sixty
device processes, lets them run rounds of federated averaging over HTTP, and measures every
published model on 60 writers whom nobody trains on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from fleet import Device, Owner, RunningServer, devices, make_server, make_tokens, serve
from measure import Models, measure
from report import render
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from emberfleet.converters.bundle import build_bundle
from emberfleet.core.arrays import Int64
from emberfleet.core.signing import SigningKey
from emberfleet.engine.backend import Backend
from emberfleet.engine.selection import choose_backend
from emberfleet.runtime.local_training import train_update
from emberfleet.runtime.retraining import RetrainPlan
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.data.names import load
from emberfleet.train.history import EpochRecord
from emberfleet.train.loop import Observer, TrainConfig
from emberfleet.train.recipes import recipe_for
from emberfleet.train.trained import TrainedModel
from emberfleet.train.training import choice_for, train_model

DATA = Path(__file__).resolve().parent.parent / "data" / "handwriting"
DEADLY_ROUND = 3
"""In this round two devices lose their power in the middle of training."""
DEATHS = 2
LAST_FETCH_S = 60.0
ROUND_FACTS = ("round", "cohort", "accepted", "dropped")


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the demo is: `FULL` for people, `SMALL` for a test of the program."""

    rounds: int
    cohort: int
    writers: int
    base_epochs: int
    central_epochs: int
    quantize_epochs: int
    test_images: int | None = None


FULL = Scale(rounds=30, cohort=20, writers=60, base_epochs=20, central_epochs=9, quantize_epochs=3)
SMALL = Scale(
    rounds=3, cohort=6, writers=8, base_epochs=2, central_epochs=1, quantize_epochs=1, test_images=600
)

ROUND_PLAN: dict[str, Any] = {
    "bits": 16,
    "heaviest": 132,
    "server_optimizer": "fedavgm",
    "server_momentum": 0.7,
    "rate_decay": 0.9,
    "warmup_rounds": 4,
    "lease_s": 6.0,
    "pool_wait_s": 20.0,
    "deadline_s": 120.0,
    "training.scope": "full",
    "training.epochs": 5,
    "training.batch": 16,
    "training.optimizer": "sgd",
    "training.rate": 0.055,
    "training.schedule": "constant",
    "training.shift": 1.5,
    "training.rotation_degrees": 8.0,
    "training.scale": 0.1,
}
"""How every round goes: settings of `emberfleet server`, found on the writers of the base and devices."""


def main() -> None:
    """Run the whole story and write report.html and summary.json."""
    arguments = _arguments()
    scale = SMALL if arguments.small else FULL
    scale = replace(scale, rounds=arguments.rounds or scale.rounds)
    demo = Demo(Path(arguments.out), scale, arguments.backend, arguments.seed)
    summary = demo.run()
    say = Console()
    say.print(
        f"Base {summary['base_accuracy']:.2%}, after {len(summary['rounds'])} rounds "
        f"{summary['federated_accuracy']:.2%}, all in one place {summary['central_accuracy']:.2%}."
    )
    say.print(f"The report: {demo.out / 'report.html'}; the figures: {demo.out / 'summary.json'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="build/demo", help="folder for everything the demo makes")
    parser.add_argument("--rounds", type=int, help="rounds of averaging (30)")
    parser.add_argument("--backend", default="auto", help="where devices train: auto, opencl or numpy")
    parser.add_argument("--seed", type=int, default=0, help="of weights, draws and training (0)")
    parser.add_argument("--small", action="store_true", help="six devices, three rounds: tests the program")
    return parser.parse_args()


class Demo:
    """The steps in order; each leaves what the report needs."""

    def __init__(self, out: Path, scale: Scale, backend: str, seed: int) -> None:
        self.out, self.scale, self.backend_name, self.seed = out.resolve(), scale, backend, seed
        self.key = SigningKey.generate()
        self.seconds: dict[str, float] = {}
        self.update_bytes = 0
        self.progress = Progress(
            TextColumn("{task.description}", justify="left"), BarColumn(), TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(), console=Console(stderr=True),
        )  # fmt: skip

    def run(self) -> dict[str, Any]:
        """Everything, from the data to the report."""
        begin = time.perf_counter()
        with self.progress:
            with self._timed("setup"):
                engine = self._set_up()
            with self._timed("train"):
                base, central = self._train(engine)
            with self._timed("convert"):
                first, reference = self._convert(base, "base"), self._convert(central, "central")
            with self._timed("compile"):
                self._compile(base, engine)
            with self._timed("fleet"):
                rows, published = self._run_fleet(first)
            bar = self.progress.add_task("measuring", total=None, note="")
            server_key = SigningKey.load(self.out / "server" / "bundle.key").verify_key
            trusted = (self.key.verify_key, server_key)
            figures, story = measure(Models(first, reference, published), trusted, self.test, engine.name)
            self.progress.update(bar, total=1, completed=1)
        self.seconds["total"] = time.perf_counter() - begin
        rounds = [
            {**{name: row[name] for name in ROUND_FACTS}, "accuracy": accuracy, "seconds": row["seconds"]}
            for row, accuracy in zip(rows, figures.pop("by_round"), strict=True)
        ]
        summary = {
            **figures, "update_bytes": self.update_bytes, "devices": len(self.owners), "rounds": rounds,
        }  # fmt: skip
        summary["seconds"] = {name: round(value, 2) for name, value in self.seconds.items()}
        (self.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
        (self.out / "report.html").write_text(render(summary, story), "utf-8")
        return summary

    def _set_up(self) -> Backend:
        if self.out.exists():
            _empty(self.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.base_data = load("handwriting", DATA, "base")
        self.test = load("handwriting", DATA, "test")
        if self.scale.test_images is not None:
            self.test = self.test.subset(
                np.arange(0, len(self.test), len(self.test) // self.scale.test_images)
            )
        pooled = load("handwriting", DATA, "devices")
        writers = np.unique(_writers(pooled))[: self.scale.writers]
        self.owners = [
            Owner(f"writer-{writer}", pooled.subset(_writers(pooled) == writer)) for writer in writers
        ]
        everybody = load("handwriting", DATA, "train")
        known = np.concatenate([writers, np.unique(_writers(self.base_data))])
        self.all_data = everybody.subset(np.isin(_writers(everybody), known))
        return choose_backend(self.backend_name)

    def _train(self, engine: Backend) -> tuple[TrainedModel, TrainedModel]:
        """The base model on 8 writers, and the reference that has everybody's data in one place."""
        return (
            self._train_on("base model, 8 writers", self.base_data, self.scale.base_epochs, engine),
            self._train_on("reference, all in one place", self.all_data, self.scale.central_epochs, engine),
        )

    def _train_on(self, words: str, data: Dataset, epochs: int, engine: Backend) -> TrainedModel:
        config: TrainConfig = replace(
            recipe_for("handwriting").config,
            epochs=epochs,
            quantize_epochs=self.scale.quantize_epochs,
            seed=self.seed,
        )
        bar = _Bar(self.progress, words, epochs + self.scale.quantize_epochs)
        return train_model("small", choice_for(data), data, None, config, engine, [bar])

    def _convert(self, model: TrainedModel, name: str) -> Path:
        """One signed file: weights, int8 .tflite, OpenCL part."""
        path = self.out / f"{name}.ember"
        build_bundle(model, 1, self.key, path, name=name)
        return path

    def _compile(self, base: TrainedModel, engine: Backend) -> None:
        """Take one step as a device does, so that sixty processes find the kernels compiled.

        It takes seconds on a machine that never ran this network, and a moment on all others.
        """
        settings = {
            name.removeprefix("training."): value
            for name, value in ROUND_PLAN.items()
            if name.startswith("training.")
        }
        plan = replace(RetrainPlan.from_settings(settings), epochs=1)
        train_update(base, self.base_data.subset(np.arange(plan.batch)), plan, self.seed, engine)

    def _run_fleet(self, first: Path) -> tuple[list[dict[str, Any]], list[Path]]:
        """Server, devices, rounds; returns a row per round and every published bundle."""
        place = self.out / "server"
        count = len(self.owners)
        plan = {
            **ROUND_PLAN, "cohort": self.scale.cohort, "minimum": max(3, self.scale.cohort // 2),
            "pool": count - DEATHS, "seed": self.seed,
        }  # fmt: skip
        make_server(place, first, self.key.verify_key.text, plan)
        tokens = make_tokens(place, count)
        with (
            serve(place, self.scale.rounds, self.out / "server.log") as server,
            devices(self.owners, self.out / "devices", server.address, tokens, self.backend_name) as fleet,
        ):
            rows = self._watch(server, fleet)
        return rows, [server.bundle(_version_after(row)) for row in rows]

    def _watch(self, server: RunningServer, fleet: Sequence[Device]) -> list[dict[str, Any]]:
        """Follow the rounds to the end; in round `DEADLY_ROUND`, kill two devices while they train."""
        bar = self.progress.add_task("federated rounds", total=self.scale.rounds, note="devices enrol")
        alive = list(fleet)
        while True:
            status = server.status()
            over = [row for row in status["rounds"] if row["phase"] in ("done", "failed")]
            running = status["round"] or {}
            deaths = len(fleet) - len(alive)
            note = f"model {status['model']['version']}, {status['present']} devices there"
            self.progress.update(bar, completed=len(over), note=note + (f", {deaths} lost" if deaths else ""))
            if not self.update_bytes:
                self.update_bytes = server.update_bytes()
            if len(over) >= self.scale.rounds:
                _wait_for_model(alive, status["model"]["version"])
                return over
            if running.get("round") == DEADLY_ROUND and deaths < DEATHS:
                for device in [device for device in alive if device.training][: DEATHS - deaths]:
                    device.kill()
                    alive.remove(device)
            dead = [device.owner.name for device in alive if not device.process.is_alive()]
            if dead:
                raise RuntimeError(f"devices ended by themselves: {', '.join(dead)}")
            time.sleep(0.01 if running.get("round") == DEADLY_ROUND and deaths < DEATHS else 0.2)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begin


class _Bar(Observer):
    """A training run as one line of progress."""

    def __init__(self, progress: Progress, words: str, epochs: int) -> None:
        self._progress = progress
        self._task: TaskID = progress.add_task(words, total=epochs, note="")

    def on_epoch(self, record: EpochRecord) -> None:
        self._progress.update(self._task, completed=record.epoch, note=f"loss {record.loss:.3f}")


def _wait_for_model(fleet: Sequence[Device], version: int) -> None:
    """Wait until every device that is alive has fetched and verified the last model."""
    end = time.monotonic() + LAST_FETCH_S
    while late := [device.owner.name for device in fleet if not device.has_model(version)]:
        if time.monotonic() > end:
            raise RuntimeError(f"model {version} did not reach {', '.join(late)} in {LAST_FETCH_S:.0f} s")
        time.sleep(0.1)


def _version_after(row: dict[str, Any]) -> int:
    """The model that is published when a round is over: a failed round leaves the one it began with."""
    begun: int = row["model_version"]
    return begun + 1 if row["phase"] == "done" else begun


def _writers(data: Dataset) -> Int64:
    assert data.writers is not None
    return data.writers


def _empty(folder: Path) -> None:
    """Remove what an earlier run left, and only if an earlier run made the folder."""
    ours = {"base.ember", "central.ember", "server", "server.log", "devices", "summary.json", "report.html"}
    strange = sorted(path.name for path in folder.iterdir() if path.name not in ours)
    if strange:
        raise SystemExit(f"{folder} holds {', '.join(strange[:3])}: give --out a folder of its own")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
