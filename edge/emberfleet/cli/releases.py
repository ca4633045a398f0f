"""`emberfleet server models`, `publish`, `rollout`, `rollback` ...: which models devices get, how soon."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from emberfleet.cli.output import JsonOption, console, print_json, print_table

Folder = Annotated[Path, typer.Argument(help="The server's folder.")]
Percent = Annotated[int, typer.Argument(min=0, max=100, help="Share of the devices that take it.")]


def models(folder: Folder, as_json: JsonOption = False) -> None:
    """List published models: how far each is rolled out, and how it did on the devices."""
    from rich.table import Table

    from emberfleet.server.releasing import open_registry

    with open_registry(folder) as registry:
        rows = registry.overview()
    if as_json:
        print_json({"models": [row.to_json() for row in rows]})
        return
    table = Table("version", "from round", "published", "rollout", "reports", "went back")
    for row in rows:
        release = row.release
        table.add_row(
            str(release.version),
            str(release.from_round or "imported"),
            f"{datetime.fromtimestamp(row.published_at, UTC):%Y-%m-%d %H:%M}",
            "halted" if row.halted and not release.rollout_percent else f"{release.rollout_percent} %",
            str(row.reports),
            str(row.bad),
        )
    print_table(table)


def publish(
    folder: Folder,
    bundle: Annotated[Path, typer.Argument(help="A bundle (.ember) with a higher version than the newest.")],
    percent: Annotated[int, typer.Option(min=0, max=100, help="Share of the devices that take it.")] = 100,
) -> None:
    """Publish a model that was trained elsewhere; a running server goes on from it."""
    import time

    from emberfleet.core.files import read_limited
    from emberfleet.core.messages import MAX_BUNDLE_BYTES
    from emberfleet.server.releasing import open_registry

    with open_registry(folder) as registry:
        info = registry.import_bundle(read_limited(bundle, MAX_BUNDLE_BYTES), time.time(), percent)
    console().print(f"Model {info.version} is published and reaches {percent} % of the devices.")


def rollout(
    folder: Folder,
    version: Annotated[int, typer.Argument(min=1, help="A published version.")],
    percent: Percent,
) -> None:
    """Let a version reach another share of the devices. Those that have it keep it: see rollback."""
    import time

    from emberfleet.server.releasing import open_registry

    with open_registry(folder) as registry:
        registry.set_rollout(version, percent, time.time())
    console().print(f"Model {version} reaches {percent} % of the devices.")


def rollback(
    folder: Folder,
    version: Annotated[int, typer.Argument(min=1, help="The older version whose weights come back.")],
    percent: Annotated[int, typer.Option(min=0, max=100, help="Share of the devices that take it.")] = 100,
) -> None:
    """Publish an older version's weights as a new version: devices never install a lower number."""
    from emberfleet.server.releasing import roll_back

    info = roll_back(folder, version, percent)
    console().print(f"Model {info.version} is published, with the weights of model {version}.")


def releases(
    folder: Folder,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="rollout_percent=10, halt_share=0.3, timestamp_s=3600 ... May repeat."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show or change how models are released. A running server takes a change over at its next start."""
    from emberfleet.cli.server import read_settings
    from emberfleet.server.releasing import change_policy

    policy = change_policy(folder, read_settings(settings or [], {})).to_json()
    if as_json:
        print_json(policy)
        return
    for name, value in policy.items():
        console().print(f"{name}: {value}")


def renew_root(
    folder: Folder,
    root_key: Annotated[
        Path | None, typer.Option(help="The root key, if not root.key in the folder.")
    ] = None,
    new_keys: Annotated[
        bool, typer.Option("--new-keys", help="New keys for targets, snapshot and timestamp too.")
    ] = False,
) -> None:
    """Sign the next TUF root: before the present one runs out, or when the server's keys may be known."""
    from emberfleet.core.signing import SigningKey
    from emberfleet.server import releasing

    version = releasing.renew_root(folder, SigningKey.load(root_key or folder / "root.key"), new_keys)
    console().print(f"Root {version} is signed. Keep root.key away from the server: it runs without it.")


def add_commands(app: typer.Typer) -> None:
    """Add these to the commands of `emberfleet server`."""
    app.command()(models)
    app.command()(publish)
    app.command()(rollout)
    app.command()(rollback)
    app.command()(releases)
    app.command("renew-root")(renew_root)
