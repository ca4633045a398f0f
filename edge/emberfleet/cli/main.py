"""`emberfleet`: the commands by name. Each lives in a file of its own and imports what it needs when run."""

from __future__ import annotations

from typing import Annotated

import typer

from emberfleet.cli import (
    bench,
    calibrate,
    convert,
    device,
    doctor,
    import_model,
    inspect,
    retrain,
    run,
    server,
    train,
    unpack,
)
from emberfleet.cli.errors import CommandGroup

app = typer.Typer(
    name="emberfleet",
    cls=CommandGroup,
    help="Train small networks, run and retrain them on devices, and average what the devices learn.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("emberfleet")
        except PackageNotFoundError:
            found = "(not installed: running from a checkout)"
        typer.echo(f"emberfleet {found}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train small networks, run and retrain them on devices, and average what the devices learn."""


app.command("train")(train.train)
app.command("import")(import_model.import_model)
app.command("calibrate")(calibrate.calibrate)
app.command("convert")(convert.convert)
app.command("inspect")(inspect.inspect)
app.command("unpack")(unpack.unpack)
app.command("run")(run.run)
app.command("retrain")(retrain.retrain)
app.add_typer(server.app)
app.add_typer(device.app)
app.add_typer(bench.app)
app.command("doctor")(doctor.doctor)
