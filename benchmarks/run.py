"""`make bench`: measures what `benchmarks/README.md` lists and writes ``summary.json``."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from benchmarks.measure import averaging, inference, packages, rounds, startup, training
from benchmarks.measure.setting import PEER_VARIABLE, Setting, describe_machine
from benchmarks.measure.tables import show

SUBJECTS: Mapping[str, Callable[[Setting], dict[str, Any]]] = {
    "startup": startup.measure,
    "training": training.measure,
    "inference": inference.measure,
    "packages": packages.measure,
    "averaging": averaging.measure,
    "rounds": rounds.measure,
}


def main() -> None:
    """Measure subject after subject; what was measured is written even when a later one fails."""
    arguments = _arguments()
    folder = Path(arguments.out).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    say, begin = Console(), time.perf_counter()
    summary: dict[str, Any] = {"machine": describe_machine(), "quick": arguments.quick, "seconds": {}}
    scratch = Path(tempfile.mkdtemp(prefix="work-", dir=folder))
    setting = Setting(scratch, arguments.quick, os.environ.get(PEER_VARIABLE, ""))
    if not summary["machine"]["quiet"] and not arguments.quick:
        say.print(
            f"[yellow]This machine is busy (load {summary['machine']['load'][0]}): figures are rough.[/]"
        )
    try:
        for name in arguments.only or SUBJECTS:
            with say.status(f"Measuring {name}"):
                start = time.perf_counter()
                summary[name] = SUBJECTS[name](setting)
                summary["seconds"][name] = round(time.perf_counter() - start, 1)
            show(say, name, summary[name])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        summary["seconds"]["total"] = round(time.perf_counter() - begin, 1)
        text = json.dumps(summary, indent=1, allow_nan=False)
        (folder / "summary.json").write_text(text + "\n", "utf-8")
    say.print(f"{summary['seconds']['total']:.0f} s; the figures: {folder / 'summary.json'}", soft_wrap=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="build/bench", help="folder for summary.json")
    parser.add_argument(
        "--only", action="append", choices=list(SUBJECTS), help="measure this subject; may repeat"
    )
    parser.add_argument("--quick", action="store_true", help="as little as shows that all of it works")
    return parser.parse_args()


if __name__ == "__main__":
    main()
