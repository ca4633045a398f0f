"""`make bench` and `make bench-peers`: measures what `benchmarks/README.md` lists.

Writes ``summary.json``, what this run measured, and ``engine.json``, what was measured last of the engine
and its peers. ``--table`` measures nothing: it writes the latter into the README and ``engine.svg``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from benchmarks.engine import chart, compare, results, table
from benchmarks.engine.works import WORKS
from benchmarks.measure import averaging, inference, load, memory, packages, rounds, secure, startup, training
from benchmarks.measure.setting import LIBRARIES, Setting
from benchmarks.measure.tables import show
from emberfleet.cli.fleet_figures.machine import describe_machine

ENGINE = "engine"
SUBJECTS: Mapping[str, Callable[[Setting], dict[str, Any]]] = {
    "startup": startup.measure,
    "memory": memory.measure,
    "training": training.measure,
    "inference": inference.measure,
    "packages": packages.measure,
    "averaging": averaging.measure,
    "rounds": rounds.measure,
    "secure": secure.measure,
    "load": load.measure,
}
HERE = Path(__file__).resolve().parent
WIDTH = 140
"""Of tables that go into a file or a pipe."""
README, CHART = HERE / "README.md", HERE / "engine.svg"


class Run:
    """One run: what it measures is written as soon as it is there."""

    def __init__(self, folder: Path, setting: Setting, say: Console) -> None:
        self._folder, self._setting, self._say = folder, setting, say
        self._machine = describe_machine(LIBRARIES)
        self._begin = time.perf_counter()
        self._summary: dict[str, Any] = {"machine": self._machine, "quick": setting.quick, "seconds": {}}
        if not self._machine["quiet"] and not setting.quick:
            load = self._machine["load"][0]
            say.print(f"[yellow]This machine is busy (load {load}): figures are rough.[/]")

    def measure(self, names: list[str]) -> None:
        """Subject after subject; of the engine's works those that are named, or all."""
        works = [name for name in WORKS if name in names or ENGINE in names]
        for name in [*SUBJECTS, ENGINE]:
            if name not in names and not (name == ENGINE and works):
                continue
            with self._say.status(f"Measuring {name}"):
                start = time.perf_counter()
                found = self._engine(works) if name == ENGINE else SUBJECTS[name](self._setting)
            self._summary[name] = found
            self._summary["seconds"][name] = round(time.perf_counter() - start, 1)
            show(self._say, name, found)
            if name == "memory":
                self._keep_section(name, found)
            if name == "startup":
                self._keep_section(name, found["first_inference"])

    def finish(self) -> None:
        """Write the summary."""
        total = round(time.perf_counter() - self._begin, 1)
        self._summary["seconds"]["total"] = total
        text = json.dumps(self._summary, indent=1, allow_nan=False)
        (self._folder / "summary.json").write_text(text + "\n", "utf-8")
        self._say.print(f"{total:.0f} s; the figures: {self._folder / 'summary.json'}", soft_wrap=True)

    def _engine(self, works: list[str]) -> dict[str, Any]:
        stayed: list[str] = []

        def keep(found: dict[str, Any]) -> None:
            if not results.keep_rows(self._folder, self._machine, self._setting.quick, found):
                stayed.extend(row["work"] for row in found["rows"])

        found = compare.measure(self._setting, works, keep)
        if stayed:
            names = ", ".join(dict.fromkeys(stayed))
            self._say.print(f"{results.FILE} keeps its side-by-side rows of: {names}", soft_wrap=True)
        return found

    def _keep_section(self, name: str, found: object) -> None:
        results.keep_section(self._folder, name, self._machine, self._setting.quick, found)


def main() -> None:
    """Measure, or bring the README up to date."""
    arguments = _arguments()
    folder = Path(arguments.out or ("build/bench-quick" if arguments.quick else "build/bench")).resolve()
    if arguments.table:
        _refresh(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="work-", dir=folder))
    peers = Path(arguments.peers).resolve() if arguments.peers else None
    say = Console(width=None if sys.stdout.isatty() else WIDTH)
    run = Run(folder, Setting(scratch, arguments.quick, peers), say)
    try:
        run.measure(arguments.only or [*SUBJECTS, ENGINE])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        run.finish()


def _refresh(folder: Path) -> None:
    value = results.load(folder)
    tables = table.render(value)
    README.write_text(table.insert(README.read_text("utf-8"), tables), "utf-8")
    CHART.write_text(chart.draw(value["rows"]) + "\n", "utf-8")
    Console().print(f"Written: {README.name} and {CHART.name}, from {folder / results.FILE}", soft_wrap=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="folder for the figures; build/bench, with --quick build/bench-quick")
    names = [*SUBJECTS, ENGINE, *WORKS]
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME",
        help=f"measure this subject, or this work of the engine; may repeat: {', '.join(names)}",
    )  # fmt: skip
    parser.add_argument("--peers", help="folder of the peers' environments: they are timed beside ours")
    parser.add_argument("--quick", action="store_true", help="as little as shows that all of it works")
    parser.add_argument(
        "--table", action="store_true", help="only write the last side-by-side run into the README"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
