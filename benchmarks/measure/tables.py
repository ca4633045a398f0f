"""The measurements as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

SPREAD = ("low", "high")
NOT_SHOWN = frozenset(
    {"parameters", "first_loss", "last_loss", "losses", "error", "prepare_s", "first_call_s"}
    | {
        f"{side}_{key}"
        for side in ("ours", "peer")
        for key in ("low_ms", "high_ms", "cpu_ms", "losses", "error")
    }
    | {"cpu_ratio"}
)
"""In the files alone."""


def show(console: Console, name: str, found: Mapping[str, Any]) -> None:
    """Write one subject: its lists of rows as tables, and beside them its single figures."""
    console.print(f"[bold]{escape(name)}[/]")
    for key, value in found.items():
        if isinstance(value, dict):
            console.print(f"  {escape(key)}: {escape(_join(value))}", soft_wrap=True)
        elif not isinstance(value, list) and value != "":
            console.print(f"  {escape(key)}: {escape(_text(value))}", soft_wrap=True)
    for value in found.values():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            console.print(_table([_flat(row) for row in value]))


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    names = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for key in names:
        numeric = any(isinstance(row.get(key), int | float) for row in rows)
        table.add_column(key.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_text(row.get(key, ""))) for key in names))
    return table


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A timing becomes its median and its spread."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key == "ms":
            flat |= {"ms": value["median"], **{name: value[name] for name in SPREAD}}
        elif key not in NOT_SHOWN:
            flat[key] = value
    return flat


def _join(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {_text(value)}" for key, value in values.items())


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
