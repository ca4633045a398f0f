"""``engine.json``: what was measured last of each work, kept over runs that measure a part of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emberfleet.core.files import write_atomically

FILE = "engine.json"
SECTIONS = ("memory", "startup")
"""Measured as subjects of their own, and shown with the engine."""
_NOTHING: Mapping[str, Any] = {"rows": [], "skipped": [], "versions": {}}


def load(folder: Path) -> dict[str, Any]:
    """The file's value; an empty one where there is none."""
    path = folder / FILE
    value: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else dict(_NOTHING)
    return value


def keep_rows(folder: Path, machine: Mapping[str, Any], quick: bool, found: Mapping[str, Any]) -> bool:
    """Put the rows of a work and number of threads in the place of older ones; False: the older ones stay.

    Rows without a peer never replace rows with one. A quick run begins a new file, as does a real one
    after a quick one: their figures are not for the same reader.
    """
    value = _begin(folder, quick)
    stamp = {"date": machine["date"], "quiet": machine["quiet"]}
    rows = [{**row, **stamp} for row in found["rows"]]
    new = {_place(entry) for key in ("rows", "skipped") for entry in found[key]}
    alone = not any(row["peer"] for row in rows)
    if alone and any(row["peer"] for row in value["rows"] if _place(row) in new):
        return False
    for key, fresh in (("rows", rows), ("skipped", found["skipped"])):
        value[key] = [entry for entry in value[key] if _place(entry) not in new] + fresh
    value["versions"] = {**value["versions"], **found["versions"]}
    _write(folder, {**value, "machine": dict(machine), "quick": quick})
    return True


def keep_section(folder: Path, name: str, machine: Mapping[str, Any], quick: bool, found: object) -> None:
    """Put a section of `SECTIONS` in the place of an older one."""
    value = _begin(folder, quick)
    _write(folder, {**value, "machine": dict(machine), "quick": quick, name: found})


def _begin(folder: Path, quick: bool) -> dict[str, Any]:
    value = load(folder)
    return value if value.get("quick", quick) == quick else dict(_NOTHING)


def _place(entry: Mapping[str, Any]) -> tuple[str, int]:
    return entry["work"], entry["threads"]


def _write(folder: Path, value: Mapping[str, Any]) -> None:
    write_atomically(folder / FILE, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
