"""`emberfleet bench tune`: measures which tiles of the OpenCL kernels are the fastest here, keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberfleet.cli.keys import TrustOption
from emberfleet.cli.models import ModelArgument, find_model
from emberfleet.cli.output import JsonOption, console, print_json, print_table

if TYPE_CHECKING:
    from emberfleet.core.graph import Graph
    from emberfleet.engine.opencl.device import OpenCLDevice
    from emberfleet.engine.opencl.program import Program
    from emberfleet.engine.opencl.tuned_tiles import Shape, Tile
    from emberfleet.engine.opencl.tuning import Outcome, Report
    from emberfleet.train.trained import TrainedModel

BUDGET_S = 8.0
"""Of one tuning, unless the user says otherwise."""


def tune(
    model: ModelArgument = "small",
    batch: Annotated[int, typer.Option(min=0, help="Images per training step; 0: no training.")] = 16,
    predict: Annotated[int, typer.Option(min=0, help="Images per prediction; 0: no prediction.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.0, help="Stop after about so long.")] = BUDGET_S,
    again: Annotated[bool, typer.Option("--again", help="Measure what was measured before, too.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Most processor threads.")] = None,
    trust: TrustOption = None,
    json: JsonOption = False,
) -> None:
    """Find the fastest tiles for a network's convolutions on this machine and keep them.

    A tile is the block of the result that a kernel keeps in registers. Emberfleet ships good defaults;
    here a few candidates for each convolution are checked against numpy and timed. The winners are kept
    in the cache folder, for this device, driver and number of threads, and used from then on by every
    training and prediction in floating point on OpenCL. Tune with the batch and the number of threads that
    you train with. Other tiles add numbers in another order: results differ in their last bits.
    """
    from emberfleet.engine.opencl import tuned_tiles, tuning
    from emberfleet.engine.opencl.device import open_device

    found = find_model(model, trust)
    device = open_device(threads=threads)
    programs = _programs(device, found, batch, predict)
    with console(stderr=True).status("Tuning"):
        report = tuning.tune(device, programs, seconds, again)
    if json:
        print_json(_json(report, device.name, str(tuned_tiles.file_of(device))))
    else:
        _show(report, str(tuned_tiles.file_of(device)))


def tune_training(
    backend: str, graph: Graph, batch: int, threads: int | None, seconds: float = BUDGET_S
) -> str:
    """Tune a network's training step before it is trained on a backend; returns what to tell the user."""
    if backend != "opencl":
        return f"nothing to tune: computing with {backend}"
    from emberfleet.engine.backend import TrainingSpec
    from emberfleet.engine.opencl import tuning
    from emberfleet.engine.opencl.device import open_device
    from emberfleet.engine.opencl.recording import record_training
    from emberfleet.engine.optimizers import Sgd

    device = open_device(threads=threads)
    program = record_training(device, graph, TrainingSpec(batch, Sgd()))
    return _summary(tuning.tune(device, [program], seconds))


def _programs(device: OpenCLDevice, model: TrainedModel, batch: int, predict: int) -> list[Program]:
    from emberfleet.engine.backend import TrainingSpec
    from emberfleet.engine.opencl.predictor import record
    from emberfleet.engine.opencl.recording import record_training
    from emberfleet.engine.optimizers import Sgd

    programs = []
    if batch:
        programs.append(record_training(device, model.graph, TrainingSpec(batch, Sgd())))
    if predict:
        programs.append(record(device, model.graph, model.tensors, predict).program)
    return programs


def describe_shape(shape: Shape) -> tuple[str, str]:
    """What a convolution is, and its loops: window, channels, pixels."""
    from emberfleet.engine.opencl.tiles import ForwardShape

    window = f"{shape.taps[0]}x{shape.taps[1]}"
    if isinstance(shape, ForwardShape):
        pixels = f"{shape.images} x {shape.rows}x{shape.columns}"
        return "convolution", f"{window}, {shape.channels} -> {shape.outputs}, {pixels}"
    return "weight gradient", f"{window}, {shape.channels} -> {shape.outputs}, {shape.rows}x{shape.columns}"


def describe_tile(tile: Tile) -> str:
    """Pixels or window rows x channels, then vectors of outputs."""
    from emberfleet.engine.opencl.tiles import ForwardTile

    first = (tile.mrx, tile.mry) if isinstance(tile, ForwardTile) else (tile.ky, tile.kc)
    return f"{first[0]}x{first[1]}x{tile.nv}"


def _json(report: Report, device: str, file: str) -> dict[str, Any]:
    rows = [
        {
            "work": describe_shape(outcome.shape)[0],
            "shape": describe_shape(outcome.shape)[1],
            "share": outcome.share,
            "chosen": describe_tile(outcome.chosen),
            "gain": outcome.gain,
            "trials": [
                {"tile": describe_tile(trial.tile), "gflops": _rate(outcome, trial.seconds)}
                for trial in outcome.trials
            ],
        }
        for outcome in report.outcomes
    ]
    return {
        "device": device,
        "file": file,
        "seconds": report.seconds,
        "known": report.known,
        "left": report.left,
        "gain": report.gain,
        "rows": rows,
    }


def _rate(outcome: Outcome, seconds: float) -> float:
    """GFLOP/s; 0 for a candidate whose result was wrong."""
    return outcome.flops / seconds / 1e9


def _show(report: Report, file: str) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    out = console()
    if report.outcomes:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for name in ("Work", "Window, channels, pixels"):
            table.add_column(name, no_wrap=True)
        for name in ("share", "default", "GFLOP/s", "chosen", "GFLOP/s", "gain"):
            table.add_column(name, justify="right", no_wrap=True)
        for outcome in report.outcomes:
            replaced = outcome.chosen != outcome.trials[0].tile
            table.add_row(
                *describe_shape(outcome.shape),
                f"{100 * outcome.share:.1f} %",
                describe_tile(outcome.trials[0].tile),
                f"{_rate(outcome, outcome.seconds):.0f}",
                describe_tile(outcome.chosen) if replaced else "",
                f"{_rate(outcome, outcome.best_seconds):.0f}" if replaced else "",
                f"{outcome.gain:.2f}" if replaced else "",
            )
        print_table(table)
    out.print(_summary(report), soft_wrap=True)
    if report.outcomes:
        out.print(f"kept in {escape(file)}", soft_wrap=True)


def _summary(report: Report) -> str:
    """What one tuning did, in a few sentences."""
    changed = sum(outcome.chosen != outcome.trials[0].tile for outcome in report.outcomes)
    found = [
        f"{len(report.outcomes)} shapes measured in {report.seconds:.1f} s, {changed} defaults replaced: "
        f"all of them together are {report.gain:.3f} times as fast as untuned"
    ]
    if report.known:
        found.append(f"{report.known} more were measured before; bench tune --again measures them anew")
    if report.left:
        found.append(f"{report.left} more did not fit into the time; tune again to go on, or raise --seconds")
    return "; ".join(found)
