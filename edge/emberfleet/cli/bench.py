"""`emberfleet bench`: how fast this device trains and predicts, on each backend it has.

`emberfleet bench [BUNDLE]` is short for `emberfleet bench run [BUNDLE]`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberfleet.cli import bench_fleet, bench_profile, bench_tune
from emberfleet.cli.errors import CommandGroup
from emberfleet.cli.keys import TrustOption, trusted_keys
from emberfleet.cli.output import JsonOption, console, print_json

if TYPE_CHECKING:
    from emberfleet.runtime.workloads import Workload

SAMPLES = 5
DEFAULT = "run"


class BenchGroup(CommandGroup):
    """A group whose command `run` may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `run` in front of arguments that start with no command of the group."""
        known = {*self.commands, *ctx.help_option_names}
        return super().parse_args(ctx, args if args[:1] and args[0] in known else [DEFAULT, *args])


app = typer.Typer(
    name="bench",
    cls=BenchGroup,
    help="Measure this machine: all backends side by side (run, also when left out), each kernel of a "
    "network (profile), the fastest tiles of its convolutions (tune), what secure rounds cost (fleet).",
)


@app.command(DEFAULT)
def run(
    bundle: Annotated[
        Path | None, typer.Argument(help="A bundle, such as model.ember; the built-in small net if left out.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per training step.")] = 16,
    seconds: Annotated[float, typer.Option(min=0.01, help="Seconds for each figure.")] = 1.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Most processor threads.")] = None,
    trust: TrustOption = None,
    json: JsonOption = False,
) -> None:
    """Time a training step and inference on the backends of this machine, each in a process of its own."""
    from emberfleet.runtime.workloads import INFER, INFERENCE_BACKENDS, TRAIN, TRAINING_BACKENDS, Workload

    keys = _checked(bundle, trust)
    model: dict[str, Any] = {
        "bundle": "" if bundle is None else str(bundle.resolve()),
        "trusted": keys,
        "threads": threads,
    }
    groups = [
        [Workload(TRAIN, name, batch, fake_quantize=True, **model) for name in TRAINING_BACKENDS],
        [Workload(INFER, name, 1, **model) for name in INFERENCE_BACKENDS],
        [Workload(INFER, name, 64, **model) for name in INFERENCE_BACKENDS],
    ]
    rows: list[dict[str, Any]] = []
    for group in groups:
        with console(stderr=True).status(f"Timing {_words(group[0])}"):
            rows += _time_group(group, seconds)
    if json:
        print_json({"model": model["bundle"] or "built-in small net", "threads": threads, "rows": rows})
    else:
        _show(rows)


def _checked(bundle: Path | None, trust: list[str] | None) -> tuple[str, ...]:
    """The keys to trust, as text, after the bundle was opened with them once: errors are said here."""
    if bundle is None:
        return ()
    from emberfleet.core.bundle import Bundle

    keys = trusted_keys(trust)
    Bundle.open(bundle, keys)
    return tuple(key.text for key in keys)


def _time_group(group: list[Workload], seconds: float) -> list[dict[str, Any]]:
    from emberfleet.runtime.workloads import time_workloads

    return [
        {"work": workload.kind, "backend": workload.backend, "batch": workload.batch, **result.to_json()}
        for workload, result in zip(group, time_workloads(group, SAMPLES, seconds / SAMPLES), strict=True)
    ]


def _words(workload: Workload) -> str:
    return f"{'a training step' if workload.kind == 'train' else 'inference'}, batch {workload.batch}"


def _show(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in ("Work", "Backend"):
        table.add_column(name, no_wrap=True)
    for name in ("Batch", "ms", "from", "to", "images/s", "MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    missing = []
    for row in rows:
        if "skipped" in row:
            missing.append(f"{row['backend']}, {row['work']}: {row['skipped']}")
            continue
        ms = row["ms"]
        rate = 1e3 * row["batch"] / ms["median"]
        peak = row["peak_mib"]
        table.add_row(
            "training step" if row["work"] == "train" else "inference, int8",
            row["backend"],
            str(row["batch"]),
            f"{ms['median']:.3g}",
            f"{ms['low']:.3g}",
            f"{ms['high']:.3g}",
            f"{rate:,.0f}",
            "" if peak is None else f"{peak:.0f}",
        )
    console().print(table)
    for reason in dict.fromkeys(missing):
        console().print(f"not timed: {escape(reason)}", soft_wrap=True)


app.command("profile")(bench_profile.profile)
app.command("tune")(bench_tune.tune)
app.command("fleet")(bench_fleet.fleet)
