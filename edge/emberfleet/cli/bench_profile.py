"""`emberfleet bench profile`: where the time of a training step or a prediction goes, kernel by kernel."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberfleet.cli.keys import TrustOption
from emberfleet.cli.models import ModelArgument, find_model
from emberfleet.cli.output import JsonOption, console, print_json, print_table

if TYPE_CHECKING:
    from emberfleet.engine.opencl.backend import OpenCLBackend
    from emberfleet.engine.opencl.profiling import KernelTime, KernelTotal
    from emberfleet.engine.opencl.program import Program
    from emberfleet.train.trained import TrainedModel

RATE = 1e-4
"""Learning rate of the steps that are timed: their parameters are thrown away."""
RUNS = 20
RESOLUTION_S = 1e-6
"""Below this a rate says nothing: that is how well a launch is timed."""


class Work(StrEnum):
    """What is profiled."""

    TRAIN = "train"
    RETRAIN = "retrain"
    PREDICT = "predict"
    INT8 = "int8"


BATCH = {Work.TRAIN: 32, Work.RETRAIN: 16, Work.PREDICT: 1, Work.INT8: 1}


def profile(
    model: ModelArgument = "small",
    work: Annotated[
        Work,
        typer.Option(
            help="A training step in floating point, one with the rounding of int8 as devices do, a "
            "prediction in floating point, or one in int8."
        ),
    ] = Work.TRAIN,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images at a time; 32 to train, 16 to retrain, else 1.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Most processor threads.")] = None,
    each: Annotated[bool, typer.Option("--each", help="List every launch with its shape and tile.")] = False,
    trust: TrustOption = None,
    json: JsonOption = False,
) -> None:
    """Show where the time goes on OpenCL: calls, ms, GFLOP/s, share of the peak and bytes of each kernel.

    Each kernel is timed by itself on the values of a real run. The peak is measured on the spot, with
    multiply-adds that never leave their registers. FLOPs are counted for convolutions, without padding;
    bytes are those of the tensors that a kernel reads and writes, each counted once. A kernel far below
    the peak that moves many bytes waits for memory; one that does neither has too little to do.
    """
    from emberfleet.engine.opencl import profiling, tuning
    from emberfleet.engine.opencl.backend import OpenCLBackend

    backend = OpenCLBackend(threads=threads)
    size = batch or BATCH[work]
    with console(stderr=True).status("Profiling"):
        program, first = _prepared(backend, find_model(model, trust), work, size)
        timer = tuning.timer_of(backend.device)
        whole = min(timer(program, first, len(program.kernels)) for _ in range(RUNS))
        times = profiling.profile(program, first)
        peak = None if work is Work.INT8 else profiling.peak_flops(backend.device)
    found: dict[str, Any] = {
        "model": model,
        "work": work.value,
        "batch": size,
        "device": backend.device.name,
        "threads": backend.device.limits.compute_units,
        "peak_gflops": None if peak is None else peak / 1e9,
        "run_ms": 1e3 * whole,
        "kernels_ms": 1e3 * sum(time.seconds for time in times),
    }
    totals = profiling.totals(times)
    if json:
        found["kernels"] = [_json(total, peak) | {"calls": total.calls} for total in totals]
        if each:
            found["launches"] = [
                _json(time, peak) | {"shape": time.shape, "tile": time.tile, "groups": time.groups}
                for time in times
            ]
        print_json(found)
        return
    _show(totals, times if each else (), peak)
    rate = "" if peak is None else f"; peak {peak / 1e9:,.0f} GFLOP/s"
    console().print(
        f"{found['run_ms']:.3f} ms for the whole run, {found['kernels_ms']:.3f} ms for its kernels one by one"
        f"{rate}; {found['threads']} threads on {found['device']}",
        soft_wrap=True,
    )


def _prepared(backend: OpenCLBackend, model: TrainedModel, work: Work, batch: int) -> tuple[Program, int]:
    """A program that has run once, and the position of a run's first kernel."""
    import numpy as np

    from emberfleet.core.lowering import quantize
    from emberfleet.engine.backend import TrainingSpec
    from emberfleet.engine.optimizers import Sgd
    from emberfleet.runtime.workloads import noise

    graph = model.graph
    x = model.preprocessing.apply(noise(batch, model.preprocessing))
    if work is Work.INT8:
        integer = backend.integer_predictor(quantize(graph, model.tensors), batch)
        integer.run(x)
        return integer.program, integer.first
    if work is Work.PREDICT:
        predictor = backend.predictor(graph, model.tensors, batch)
        predictor.run(x)
        return predictor.program, 0
    spec = TrainingSpec(batch, Sgd(momentum=0.9), fake_quantize=work is Work.RETRAIN)
    trainer = backend.trainer(graph, spec)
    trainer.load(model.tensors)
    places = (batch,) if graph.positions == 1 else (batch, graph.positions)
    trainer.step(x, np.random.default_rng(1).integers(0, graph.classes, places), RATE)
    return trainer.program, 0


def _json(row: KernelTime | KernelTotal, peak: float | None) -> dict[str, Any]:
    timed = row.seconds >= RESOLUTION_S
    gflops = row.flops / row.seconds / 1e9 if row.flops and timed else None
    return {
        "kernel": row.kernel,
        "ms": 1e3 * row.seconds,
        "gflops": gflops,
        "share_of_peak": None if gflops is None or peak is None else 1e9 * gflops / peak,
        "moved_mib": row.moved_bytes / 2**20,
        "gb_per_s": row.moved_bytes / row.seconds / 1e9 if timed else None,
    }


def _show(totals: tuple[KernelTotal, ...], times: tuple[KernelTime, ...], peak: float | None) -> None:
    from rich import box
    from rich.table import Table

    whole = sum(total.seconds for total in totals)

    def table(*names: str) -> Table:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        made.add_column("Kernel", no_wrap=True)
        for name in names:
            made.add_column(name, justify="right", no_wrap=True)
        return made

    by_kernel = table("calls", "ms", "share", "GFLOP/s", "of peak", "MiB", "GB/s")
    for total in totals:
        share = f"{100 * total.seconds / whole:.1f} %"
        ms, *rates = _cells(_json(total, peak))
        by_kernel.add_row(total.kernel, str(total.calls), ms, share, *rates)
    print_table(by_kernel)
    if times:
        by_launch = table("ms", "GFLOP/s", "of peak", "MiB", "GB/s", "groups")
        by_launch.add_column("shape; tile", no_wrap=True)
        for time in times:
            groups = "x".join(map(str, time.groups))
            words = f"{time.shape}; {time.tile}" if time.shape else time.tile
            by_launch.add_row(time.kernel, *_cells(_json(time, peak)), groups, words)
        print_table(by_launch)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    share = row["share_of_peak"]
    return (
        f"{row['ms']:.3f}",
        "" if row["gflops"] is None else f"{row['gflops']:.0f}",
        "" if share is None else f"{100 * share:.0f} %",
        f"{row['moved_mib']:.1f}",
        "" if row["gb_per_s"] is None else f"{row['gb_per_s']:.0f}",
    )
