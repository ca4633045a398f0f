"""All figures of a fleet on this machine, and Flower's beside them.

What has a counterpart takes turns with it, sample by sample; fleets of processes take turns as a whole. What
takes seconds has fewer samples.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from emberfleet.cli.fleet_figures import accuracy, averaging, sums
from emberfleet.cli.fleet_figures.children import our_modules_alone
from emberfleet.cli.fleet_figures.figures import FIGURES
from emberfleet.cli.fleet_figures.flower_rounds import measure_flower
from emberfleet.cli.fleet_figures.idle import measure_idle
from emberfleet.cli.fleet_figures.machine import describe_machine
from emberfleet.cli.fleet_figures.rounds import DEVICES, measure_round
from emberfleet.core.errors import ConfigError
from emberfleet.runtime.measuring import MeasuredProcess, Result, interleave

SAMPLE_S: Final = 0.25
FLOWER_JOB: Final = "emberfleet.cli.fleet_figures.flower_job"
FLOWER_TIMES: Final = 20
"""From 50 devices to 1,000 with as many neighbours each: so many more secrets and masks."""


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is measured; the goals are for what stands here."""

    size: int = sums.SIZE
    updates: int = averaging.UPDATES
    many: int = sums.MANY
    samples: int = 5
    long_samples: int = 3
    rounds: int = 8
    flower_nodes: int = DEVICES
    flower_rounds: int = 3
    flower_size: int = 100_000
    accuracy: accuracy.Scale = accuracy.FULL


QUICK: Final = Amount(
    size=10_000,
    updates=4,
    many=100,
    samples=2,
    long_samples=1,
    rounds=2,
    flower_nodes=2,
    flower_rounds=1,
    flower_size=1000,
    accuracy=accuracy.QUICK,
)


@dataclass(frozen=True, slots=True)
class Flower:
    """A Python that has `flwr`.

    Attributes:
        python: Its commands stand beside it.
        version: Of flwr.
    """

    python: Path
    version: str

    @classmethod
    def of(cls, python: Path) -> Flower:
        """Ask a Python for its flwr.

        Raises:
            ConfigError: It has none.
        """
        ask = "import importlib.metadata as m; print(m.version('flwr'))"
        done = subprocess.run(
            [str(python), "-c", ask], capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode:
            raise ConfigError(
                f"{python} has no flwr: pip install flwr there, or name another Python with --flower-python"
            )
        # Not resolved: a virtual environment's Python is a link, and its commands stand beside the link.
        return cls(python.absolute(), done.stdout.strip())


class FleetBench:
    """One run."""

    def __init__(
        self, folder: Path, data: Path, amount: Amount, flower: Flower | None, say: Callable[[str], None]
    ) -> None:
        """Prepare.

        Args:
            folder: For the fleets' files; empty.
            data: The handwriting data set.
            amount: How much.
            flower: Measured too, where given.
            say: Told what is being measured.
        """
        self._folder, self._data, self._amount, self._flower = folder, data, amount, flower
        self._say = say
        self._ours: dict[str, float | int | None] = dict.fromkeys(figure.name for figure in FIGURES)
        self._theirs: dict[str, float | int | None] = dict(self._ours)
        machine = describe_machine()
        self._setting: dict[str, Any] = {"cpu": machine.pop("processor"), **machine, "not_measured": {}}

    def run(self) -> dict[str, Any]:
        """Every figure; an own process each.

        Returns:
            The figures by name, `setting`, and `flower` where it was measured.
        """
        with our_modules_alone() as modules:
            self._modules = modules
            self._sums()
            self._average()
        self._rounds()
        self._say("the memory of an idle device")
        idle = measure_idle(self._folder / "idle")
        self._ours["agent_rss_mib"], self._setting["agent"] = idle["rss_mib"], idle
        self._accuracy()
        found: dict[str, Any] = {**self._ours, "setting": self._setting}
        if self._flower is not None:
            found["flower"] = self._theirs
            self._setting["versions"]["flwr"] = self._flower.version
        return found

    def _sums(self) -> None:
        amount = self._amount
        mask, few, many, chosen = sums.cases(amount.many)
        self._say("masks")
        ours, theirs = self._beside(sums.start(mask, amount.size), "mask", amount.samples, SAMPLE_S)
        self._ours["mask_ms"], self._ours["update_bytes"] = _ms(ours), ours.facts["update_bytes"]
        if theirs is not None:
            self._theirs["mask_ms"], self._theirs["update_bytes"] = _ms(theirs), theirs.facts["update_bytes"]
        self._say("unmasking 50 devices")
        ours, theirs = self._beside(sums.start(few, amount.size), "unmask", amount.long_samples, 0.0)
        self._ours["unmask_50_s"] = _ms(ours) / 1e3
        if theirs is not None:
            self._theirs["unmask_50_s"] = _ms(theirs) / 1e3
            self._theirs["unmask_1000_s"] = FLOWER_TIMES * _ms(theirs) / 1e3
            self._setting["flower_unmask_1000_s"] = f"extrapolated: {FLOWER_TIMES} times that of 50"
        self._say(f"unmasking {amount.many} devices")
        with ExitStack() as stack:
            started = [stack.enter_context(sums.start(case, amount.size)) for case in (many, chosen)]
            results = interleave(started, amount.long_samples, 0.0)
        self._ours["unmask_1000_s"] = _ms(results[0]) / 1e3
        names = ("neighbours", "threshold", "threads")
        self._setting["unmask_1000"] = [
            {name: getattr(case, name) for name in names}
            | {
                "seconds": _ms(result) / 1e3,
                "masks": result.facts["masks"],
                "peak_mib": result.facts["peak_mib"],
            }
            for case, result in zip((many, chosen), results, strict=True)
        ]

    def _average(self) -> None:
        self._say("averaging")
        amount = self._amount
        with ExitStack() as stack:
            started = [
                stack.enter_context(averaging.start(name, amount.updates, amount.size))
                for name in ("float32", f"float32, {averaging.READ}")
            ]
            if self._flower is not None:
                started.append(stack.enter_context(self._child("average")))
            ours, floor, *theirs = interleave(started, amount.samples, SAMPLE_S)
        self._ours["average_over_floor"] = round(_ms(ours) / _ms(floor), 2)
        self._setting["average"] = {
            "seconds": _ms(ours) / 1e3,
            "reading_once_s": _ms(floor) / 1e3,
            "peak_mib": ours.facts["peak_mib"],
        }
        for result in theirs:
            self._theirs["average_over_floor"] = round(_ms(result) / _ms(floor), 2)

    def _rounds(self) -> None:
        amount = self._amount
        self._say("rounds")
        runs = [measure_round(self._folder / "rounds", amount.rounds)]
        if self._flower is not None:
            self._say("Flower's rounds")
            found = measure_flower(
                self._flower.python,
                self._folder / "flower",
                amount.flower_nodes,
                amount.flower_rounds,
                amount.flower_size,
            )
            self._theirs["round_s"], self._theirs["agent_rss_mib"] = found["round_s"], found["agent_rss_mib"]
            self._setting["flower_round"] = found
            self._say("rounds, once more")
            runs.append(measure_round(self._folder / "rounds again", amount.rounds))
        seconds = [run["seconds_from_draw_to_model"] for run in runs]
        self._ours["round_s"] = round(sum(seconds) / len(seconds), 3)
        self._setting["round"] = runs

    def _accuracy(self) -> None:
        if not self._data.exists():
            self._setting["not_measured"]["accuracy_difference"] = (
                f"{self._data} does not exist; --data names the folder of the handwriting data set"
            )
            return
        self._say("accuracy")
        found = accuracy.measure_accuracy(self._data, self._amount.accuracy)
        self._ours["accuracy_difference"] = round(abs(found["lost"]["16 bits"]), 3)
        self._setting["accuracy"] = found

    def _beside(
        self, ours: MeasuredProcess, theirs: str, samples: int, seconds: float
    ) -> tuple[Result, Result | None]:
        """Ours and one of Flower's, in turns."""
        with ExitStack() as stack:
            started = [stack.enter_context(ours)]
            if self._flower is not None:
                started.append(stack.enter_context(self._child(theirs)))
            results: Sequence[Result | None] = [*interleave(started, samples, seconds), None]
        assert results[0] is not None
        return results[0], results[1]

    def _child(self, name: str) -> MeasuredProcess:
        assert self._flower is not None
        amount = self._amount
        command = [str(self._flower.python), "-m", FLOWER_JOB, name, str(amount.updates), str(amount.size)]
        return MeasuredProcess(f"Flower, {name}", command, 1, (self._modules,))


def _ms(result: Result) -> float:
    if result.timing is None:
        raise ConfigError(result.skipped)
    return result.timing.median
