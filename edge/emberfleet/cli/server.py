"""`emberfleet server`: make a fleet's server, let devices in, run rounds, see them, shut devices out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emberfleet.cli.errors import CommandGroup
from emberfleet.cli.output import JsonOption, console, print_json
from emberfleet.cli.releases import add_commands

app = typer.Typer(
    name="server",
    cls=CommandGroup,
    help="Run the server of a fleet: it averages sealed updates and publishes better models.",
    no_args_is_help=True,
)
add_commands(app)
Folder = Annotated[Path, typer.Argument(help="The server's folder.")]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of every round: cohort=20, training.rate=0.05 ... May repeat."),
]


@app.command()
def init(
    folder: Folder,
    bundle: Annotated[Path, typer.Option(help="The first model: a signed bundle (.ember).")],
    trust: Annotated[
        list[str] | None,
        typer.Option(help="Public key (base64) of who signed the bundle; devices trust it too. May repeat."),
    ] = None,
    signing_key: Annotated[
        Path | None, typer.Option(help="Key that signs new models; made when not given.")
    ] = None,
    settings: SettingsOption = None,
) -> None:
    """Make the folder: keys, database, and the first model."""
    from emberfleet.core.codec import Fields
    from emberfleet.core.files import read_limited
    from emberfleet.core.messages import MAX_BUNDLE_BYTES
    from emberfleet.core.signing import SigningKey, VerifyKey
    from emberfleet.server.fleet import init_server
    from emberfleet.server.rounds.plan import RoundPlan

    plan = RoundPlan.from_fields(Fields.of(read_settings(settings or [], {"scope": "full"}), "round plan"))
    key = None if signing_key is None else SigningKey.load(signing_key)
    trusted = tuple(VerifyKey.from_text(text) for text in trust or [])
    info = init_server(folder, read_limited(bundle, MAX_BUNDLE_BYTES), trusted, plan, key)
    console().print(f"{folder} serves model {info.version} ({info.size_bytes} bytes).")
    console().print(f"Keep {folder}/root.key somewhere else: the server runs without it.")
    console().print(f"Next: emberfleet server token {folder}; emberfleet server run {folder}")


@app.command()
def token(
    folder: Folder,
    count: Annotated[int, typer.Option(min=1, help="How many tokens.")] = 1,
    days: Annotated[float, typer.Option(min=0.001, help="Days until they expire.")] = 7.0,
    certificate: Annotated[
        Path | None,
        typer.Option(help="The certificate (PEM) that devices will see, if not the server's own."),
    ] = None,
    pinned: Annotated[
        bool, typer.Option("--pin/--no-pin", help="Whether devices accept that certificate alone.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Make one-time tokens, each of which lets one device in."""
    from emberfleet.server.fleet import make_tokens

    made = make_tokens(folder, count, days * 24 * 3600, pin=_pin(folder, certificate) if pinned else "")
    if as_json:
        print_json({"tokens": made})
    else:
        typer.echo("\n".join(made))


@app.command()
def run(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")] = 8470,
    rounds: Annotated[int, typer.Option(min=0, help="Stop opening rounds after so many; 0: never.")] = 0,
    tls: Annotated[
        bool | None,
        typer.Option(
            "--tls/--no-tls", help="Serve https. Without either: unless only this machine can connect."
        ),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="TLS certificate (PEM) in place of the server's own.")
    ] = None,
    certificate_key: Annotated[
        Path | None, typer.Option(help="Its private key (PEM), where that is another file.")
    ] = None,
    settings: SettingsOption = None,
) -> None:
    """Serve models and run rounds until interrupted."""
    import uvicorn

    from emberfleet.server.app import create_app
    from emberfleet.server.fleet import ServerConfig, change_plan
    from emberfleet.server.serving import make_config
    from emberfleet.server.tls import own_certificate, speaks_tls

    if settings:
        change_plan(folder, read_settings(settings, {}))
    application = create_app(ServerConfig(folder, rounds=rounds))
    if certificate is None and speaks_tls(host, tls):
        certificate = own_certificate(folder, [host])
    uvicorn.Server(make_config(application, host, port, certificate, certificate_key)).run()


@app.command()
def pin(
    folder: Folder,
    certificate: Annotated[
        Path | None, typer.Option(help="A certificate (PEM), if not the server's own.")
    ] = None,
) -> None:
    """Show what devices know the server's certificate by."""
    typer.echo(_pin(folder, certificate))


@app.command()
def status(folder: Folder, as_json: JsonOption = False) -> None:
    """Show models, devices and rounds, with or without a running server."""
    from rich.table import Table

    from emberfleet.server.dashboard.status import stored_facts
    from emberfleet.server.fleet import Settings
    from emberfleet.server.storage.database import Database
    from emberfleet.server.storage.files import ServerFolder

    paths = ServerFolder(folder)
    Settings.load(paths)
    database = Database.in_file(paths.database)
    try:
        facts = stored_facts(database)
        facts["devices"]["list"] = [
            {"id": device.id, "name": device.name, "revoked": device.revoked_at is not None}
            for device in database.devices()
        ]
    finally:
        database.close()
    if as_json:
        print_json(facts)
        return
    model, devices = facts["model"], facts["devices"]
    console().print(f"Model {model['version']}, {devices['enrolled']} devices, {devices['revoked']} shut out")
    table = Table("round", "phase", "cohort", "accepted", "dropped", "seconds", "measured")
    for row in facts["rounds"]:
        measured = ", ".join(f"{name} {value:.4g}" for name, value in sorted(row["metrics"].items()))
        shown = (row["round"], row["phase"], row["cohort"], row["accepted"], row["dropped"], row["seconds"])
        table.add_row(*("" if value is None else str(value) for value in shown), measured or row["failure"])
    console().print(table)


@app.command()
def revoke(folder: Folder, device: Annotated[str, typer.Argument(help="The device's id.")]) -> None:
    """Shut a device out, from its next request on."""
    import time

    from emberfleet.core.errors import EnrolmentError
    from emberfleet.server.fleet import Settings
    from emberfleet.server.storage.database import Database
    from emberfleet.server.storage.files import ServerFolder

    paths = ServerFolder(folder)
    Settings.load(paths)
    database = Database.in_file(paths.database)
    try:
        if not database.revoke(device, time.time()):
            raise EnrolmentError(
                f"no device has the id '{device}': see emberfleet server status {folder} --json"
            )
    finally:
        database.close()
    console().print(f"{device} is shut out.")


def _pin(folder: Path, certificate: Path | None) -> str:
    from emberfleet.server.fleet import Settings
    from emberfleet.server.storage.files import ServerFolder
    from emberfleet.server.tls import own_certificate, pin_of_file

    Settings.load(ServerFolder(folder))
    return pin_of_file(certificate or own_certificate(folder))


def read_settings(settings: list[str], start: dict[str, object]) -> dict[str, object]:
    """Turn ``name=value`` into settings of a round plan; ``training.name=value`` goes to the training.

    Raises:
        ConfigError: Not of that form.
    """
    import json

    from emberfleet.core.errors import ConfigError

    found: dict[str, object] = dict(start)
    training: dict[str, object] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {text}: expected name=value, such as cohort=20")
        try:
            read = json.loads(value)
        except ValueError:
            read = value
        if name.startswith("training."):
            training[name.removeprefix("training.")] = read
        else:
            found[name] = read
    if training:
        found["training"] = training
    return found
