"""`emberfleet bench fleet`: what secure rounds cost on this machine, beside their goals and beside Flower."""

from __future__ import annotations

import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberfleet.cli.output import JsonOption, console, print_json, print_table

if TYPE_CHECKING:
    from emberfleet.cli.fleet_figures.figures import Figure

HANDWRITING = Path("examples") / "data" / "handwriting"


class Peer(StrEnum):
    """Whom we are measured beside."""

    FLOWER = "flower"


def fleet(
    against: Annotated[
        Peer | None, typer.Option(help="Measure this beside ours, in turns; it must be installed.")
    ] = None,
    flower_python: Annotated[
        Path, typer.Option(help="A Python that has flwr; this one when left out.")
    ] = Path(sys.executable),
    data: Annotated[Path, typer.Option(help="The handwriting data set, for the accuracy.")] = HANDWRITING,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="As little as shows that all of it works; its figures mean nothing."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Measure a fleet's figures here: masks, sums, averages, rounds, memory, accuracy. Takes minutes.

    Every figure has processes of its own, whose linear algebra keeps to one thread. Times are medians by the
    clock: they say something on a quiet machine alone.
    """
    # Before anything takes time: without the server's libraries there is nothing to measure.
    import emberfleet.server.fleet  # noqa: F401
    from emberfleet.cli.fleet_figures.measure import QUICK, Amount, FleetBench, Flower

    peer = Flower.of(flower_python) if against is Peer.FLOWER else None
    with (
        tempfile.TemporaryDirectory(prefix="emberfleet-") as folder,
        console(stderr=True).status("Measuring") as status,
    ):
        bench = FleetBench(
            Path(folder),
            data,
            QUICK if quick else Amount(),
            peer,
            lambda words: status.update(f"Measuring {words}"),
        )
        found = bench.run()
    if json:
        print_json(found)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from emberfleet.cli.fleet_figures.figures import FIGURES, FLOWER_EXTRAPOLATED

    setting, theirs = found["setting"], found.get("flower")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("Figure", no_wrap=True)
    for name in ("here", "goal", *(("Flower", "by ours") if theirs else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for figure in FIGURES:
        value = found[figure.name]
        cells = [figure.words, _cell(figure, value), _cell(figure, figure.goal)]
        if theirs:
            peer = theirs[figure.name]
            mark = " *" if figure.name == FLOWER_EXTRAPOLATED and peer is not None else ""
            cells += [_cell(figure, peer) + mark, f"{peer / value:.1f}" if peer and value else ""]
        table.add_row(*cells)
    print_table(table)
    say = console()
    chosen = setting["unmask_1000"][1]
    lines = [
        f"With the graph that is chosen for so many devices, {chosen['neighbours']} neighbours and a "
        f"threshold of {chosen['threshold']}: {chosen['seconds']:.3g} s for {chosen['masks']} masks.",
        f"Between two models: {setting['round'][0]['seconds_per_round']:.3g} s.",
    ]
    if "accuracy" in setting:
        lost = ", ".join(f"{value:.3f} with {name}" for name, value in setting["accuracy"]["lost"].items())
        lines.append(f"Points of accuracy lost: {lost}.")
    if theirs:
        lines.append(f"* {setting['flower_unmask_1000_s']}. Flower {setting['versions']['flwr']}.")
    lines += [f"{name}: not measured: {reason}" for name, reason in setting["not_measured"].items()]
    if not setting["quiet"]:
        lines.append(f"This machine is busy (load {setting['load'][0]}): times are rough.")
    for line in lines:
        say.print(escape(line), soft_wrap=True)


def _cell(figure: Figure, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,} {figure.unit}" if isinstance(value, int) else f"{value:.3g} {figure.unit}"
