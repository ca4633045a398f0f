"""`make bench-fleet`: measures the fleet's figures and Flower's, and writes their table into the README.

The figures are those of `emberfleet bench fleet --json`, with the load of a thousand devices beside them.
They stay in ``fleet.json``; ``--table`` measures nothing and writes what was measured last.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.measure import load
from benchmarks.measure.setting import ROOT, Setting
from emberfleet.cli.fleet_figures.children import child_environment
from emberfleet.cli.fleet_figures.figures import FIGURES, FLOWER_EXTRAPOLATED, Figure

FILE = "fleet.json"
README = ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- fleet: begin -->", "<!-- fleet: end -->"
HANDWRITING = ROOT / "examples" / "data" / "handwriting"


def main() -> None:
    """Measure, or write the table alone."""
    arguments = _arguments()
    path = Path(arguments.out).resolve() / FILE
    if not arguments.table:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(measure(arguments.flower_python), indent=1) + "\n", "utf-8")
    found = json.loads(path.read_text("utf-8"))
    README.write_text(insert(README.read_text("utf-8"), render(found)), "utf-8")
    print(f"Written: {README.name}, from {path}")


def measure(flower_python: str) -> dict[str, Any]:
    """All figures, and the load."""
    command = [sys.executable, "-m", "emberfleet.cli", "bench", "fleet", "--json", "--data", str(HANDWRITING)]
    if flower_python:
        command += ["--against", "flower", "--flower-python", flower_python]
    done = subprocess.run(command, env=child_environment(), check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    with tempfile.TemporaryDirectory(prefix="emberfleet-") as folder:
        return {**found, "load": load.measure(Setting(Path(folder)))}


def render(found: Mapping[str, Any]) -> str:
    """The tables and what must be known to read them."""
    setting, theirs = found["setting"], found.get("flower", {})
    versions = setting["versions"]
    names = {"numpy": "numpy", "cryptography": "cryptography", "flwr": "Flower"}
    libraries = ", ".join(f"{name} {versions[key]}" for key, name in names.items() if key in versions)
    quiet = "quiet" if setting["quiet"] else f"BUSY: load {setting['load'][0]} at the start"
    lines = [
        f"{setting['cpu']}, {setting['cores']} cores, {quiet}, Python {setting['python']}, {libraries}; "
        f"{setting['date'][:10]}.",
        "",
        "| figure | here | goal | Flower | Flower by ours |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(_row(figure, found[figure.name], theirs.get(figure.name)) for figure in FIGURES),
        "",
        *_remarks(setting),
    ]
    if "load" in found:
        lines += ["", *_load(found["load"])]
    return "\n".join(lines)


def insert(text: str, tables: str) -> str:
    """The README with other tables between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"{README.name}: lacks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def _row(figure: Figure, ours: float | None, theirs: float | None) -> str:
    mark = " (extrapolated)" if figure.name == FLOWER_EXTRAPOLATED and theirs is not None else ""
    ratio = f"{theirs / ours:.1f}" if ours and theirs else ""
    cells = [_text(figure, ours), _text(figure, figure.goal), _text(figure, theirs) + mark, ratio]
    return f"| {figure.words} | {' | '.join(cells)} |"


def _remarks(setting: Mapping[str, Any]) -> list[str]:
    chosen, average, run = setting["unmask_1000"][1], setting["average"], setting["round"][0]
    lines = [
        f"- A thousand devices with the graph that is chosen for them, {chosen['neighbours']} neighbours and "
        f"a threshold of {chosen['threshold']}: {chosen['seconds']:.3g} s for {chosen['masks']:,} masks, "
        f"{chosen['peak_mib']:.0f} MiB.",
        f"- Averaging: {1e3 * average['seconds']:.3g} ms, reading {1e3 * average['reading_once_s']:.3g} ms.",
        f"- From one model to the next: {run['seconds_per_round']:.3g} s; the server held "
        f"{run['server_peak_mib']:.0f} MiB at most, a device {run['device_peak_mib']:.0f}.",
    ]
    if "accuracy" in setting:
        lost = " and ".join(f"{value:.3f} with {name}" for name, value in setting["accuracy"]["lost"].items())
        rounds = len(setting["accuracy"]["rounds"])
        lines.append(f"- Points of accuracy lost, mean of the last {rounds} rounds: {lost}.")
    return lines


def _load(found: Mapping[str, Any]) -> list[str]:
    return [
        f"{found['devices']:,} simulated devices with {found['neighbours']} neighbours each, of which "
        f"{found['gave_up']} gave up, {found['values']:,} values: {found['wall_s']:.0f} s, "
        f"{found['requests']:,} requests, {found['requests_per_s']:.0f} a second. The server took "
        f"{found['server_processor_s']:.0f} s of processor time and {found['server_peak_mib']:.0f} MiB, the "
        f"devices, in {found['client_processes']} processes, {found['clients_processor_s']:.0f} s.",
        "",
        "| request | answers | p50 ms | p99 ms | longest ms |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(_request(row) for row in found["rows"]),
    ]


def _request(row: Mapping[str, Any]) -> str:
    times = " | ".join(f"{row[name]:.0f}" for name in ("p50_ms", "p99_ms", "most_ms"))
    return f"| {row['request']} | {row['count']:,} | {times} |"


def _text(figure: Figure, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f} {figure.unit}" if figure.unit == "bytes" else f"{value:.3g} {figure.unit}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="build/bench", help="folder for the figures (build/bench)")
    parser.add_argument("--flower-python", default="", help="a Python that has flwr: measured beside ours")
    parser.add_argument("--table", action="store_true", help="only write the last run into the README")
    return parser.parse_args()


if __name__ == "__main__":
    main()
