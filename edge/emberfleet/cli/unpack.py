"""`emberfleet unpack`: from a wire file back to the signed bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emberfleet.cli.keys import TrustOption, trusted_keys
from emberfleet.cli.output import JsonOption, print_json


def unpack(
    wire: Annotated[Path, typer.Argument(help="The file that `emberfleet convert --to wire` wrote.")],
    out: Annotated[Path, typer.Option(help="The bundle to write, such as model.ember.")],
    trust: TrustOption = None,
    json: JsonOption = False,
) -> None:
    """Make the bundle again that a wire file stands for, every byte checked against its signed manifest."""
    from emberfleet.converters.wire import open_wire
    from emberfleet.core.files import write_atomically

    data = open_wire(wire, trusted_keys(trust))
    write_atomically(out, data)
    if json:
        print_json({"file": out, "bytes": len(data), "wire_bytes": wire.stat().st_size})
    else:
        typer.echo(f"{out}: {len(data)} bytes, of {wire.stat().st_size} received")
