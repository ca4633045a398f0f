"""What commands write: tables and progress for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MAX_TABLE_WIDTH = 400

JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON for a program to read.")]


def console(stderr: bool = False) -> Console:
    """A Rich console for results on stdout or, for progress and remarks, on stderr."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=False)


def print_table(table: Table) -> None:
    """Write a table on stdout with every column whole, however narrow the terminal is."""
    from rich.measure import Measurement

    out = console()
    needed = Measurement.get(out, out.options.update(width=MAX_TABLE_WIDTH), table).maximum
    out.width = max(out.width, needed)
    out.print(table, crop=False)


def print_json(value: object) -> None:
    """Write ``value`` on stdout as indented JSON: dataclasses, enums, paths and numpy numbers included.

    Raises:
        TypeError: Something in ``value`` has no JSON form.
        ValueError: A number is not finite.
    """
    typer.echo(json.dumps(value, default=_plain, indent=2, ensure_ascii=False, allow_nan=False))


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, set | frozenset):
        return sorted(value)
    to_list = getattr(value, "tolist", None)  # numpy arrays and numbers, without importing numpy
    if callable(to_list):
        return to_list()
    raise TypeError(f"{type(value).__name__} has no JSON form")
