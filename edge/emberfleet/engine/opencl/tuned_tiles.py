"""Tiles that were measured to be the fastest on a device, kept in the user's cache folder.

One JSON file per device, driver, processor, number of threads and family:

    {"version": 1, "kernels": SHA-256, "device": name, "forward": [row ...], "weight": [row ...]}

A row is the shape of the work (`tiles.ForwardShape`, `tiles.WeightShape`), then the tile, as plain
integers. A file that is damaged, too large, or measured with other kernels is ignored with one line
in the log and replaced when tiles are next measured. A tile counts only if it fits its shape, so that
whatever the file says, kernels stay within their memory.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import TypeAlias

from emberfleet.core.codec import Fields, encode_json
from emberfleet.core.errors import FormatError, StorageError
from emberfleet.core.files import write_atomically
from emberfleet.engine.opencl import binaries
from emberfleet.engine.opencl.device import PRELUDE, OpenCLDevice, read_source
from emberfleet.engine.opencl.tiles import (
    ForwardShape,
    ForwardTile,
    WeightShape,
    WeightTile,
    forward_fits,
    weight_fits,
)

Shape: TypeAlias = ForwardShape | WeightShape
Tile: TypeAlias = ForwardTile | WeightTile

VERSION = 1
MAX_BYTES = 1 << 19
MAX_TILES = 4096
"""Of one kind: of more the oldest are forgotten."""
MAX_EXTENT = 1 << 24

FORWARD_ROW, WEIGHT_ROW = 12, 11
SOURCES = (PRELUDE, "conv2d")
"""The kernels' text: with another one, other tiles may be the fastest."""

_log = logging.getLogger(__name__)


def remember(device: OpenCLDevice) -> None:
    """Give a device the tiles kept for it, the first time it is asked for."""
    if not device.tiles_remembered:
        device.tiles_remembered = True
        device.tuned.update(load(device))


def load(device: OpenCLDevice) -> dict[Shape, Tile]:
    """The tiles kept for a device; none where there is no file or it does not count."""
    path = file_of(device)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FormatError(f"more than {MAX_BYTES} bytes")
        data = path.read_bytes()
    except OSError:
        return {}
    except FormatError as error:
        _log.warning("ignoring tuned tiles: %s: %s", path, error)
        return {}
    try:
        return parse(data, device)
    except FormatError as error:
        _log.warning("ignoring tuned tiles: %s: %s", path, error)
        return {}


def save(device: OpenCLDevice, tiles: Mapping[Shape, Tile]) -> None:
    """Keep all tiles of a device; a folder that cannot be written to is no error, only forgetful."""
    path = file_of(device)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, encode(device, tiles), 0o600)
    except (OSError, StorageError) as error:
        _log.warning("tuned tiles are not kept: %s", error)


def file_of(device: OpenCLDevice) -> Path:
    """Where a device's tiles are kept."""
    parts = (
        device.name,
        device.driver,
        device.cpu_name or "",
        " ".join(sorted(device.features)),
        str(device.limits.compute_units),
        device.family,
    )
    return binaries.folder() / f"tiles-{binaries.key(*parts)[:32]}.json"


def encode(device: OpenCLDevice, tiles: Mapping[Shape, Tile]) -> bytes:
    """The contents of a file."""
    forward = [_row(shape, tile) for shape, tile in tiles.items() if isinstance(shape, ForwardShape)]
    weight = [_row(shape, tile) for shape, tile in tiles.items() if isinstance(shape, WeightShape)]
    return encode_json(
        {
            "version": VERSION,
            "kernels": _kernels(),
            "device": "".join(character for character in device.name[:200] if character.isprintable()),
            "forward": forward[-MAX_TILES:],
            "weight": weight[-MAX_TILES:],
        }
    )


def parse(data: bytes, device: OpenCLDevice) -> dict[Shape, Tile]:
    """Read the contents of a file.

    Raises:
        FormatError: it is not one of this version, these kernels, and tiles that are candidates here.
    """
    fields = Fields.parse(data, "tuned tiles", MAX_BYTES)
    fields.integer("version", VERSION, VERSION)
    if fields.digest("kernels") != _kernels():
        raise FormatError("tuned tiles: measured with other kernels")
    fields.text("device", default="")
    registers = device.limits.vector_registers
    found: dict[Shape, Tile] = {}
    for row in _rows(fields, "forward", FORWARD_ROW):
        shape = ForwardShape((row[0], row[1]), *row[2:8])
        tile = ForwardTile(*row[8:])
        if not forward_fits(shape, tile, registers):
            raise _unfit()
        found[shape] = tile
    for row in _rows(fields, "weight", WEIGHT_ROW):
        work, cut = WeightShape((row[0], row[1]), *row[2:7]), WeightTile(*row[7:])
        if not weight_fits(work, cut, registers):
            raise _unfit()
        found[work] = cut
    fields.done()
    return found


def _row(shape: Shape, tile: Tile) -> list[int]:
    return [*shape.taps, *astuple(shape)[1:], *astuple(tile)]


def _unfit() -> FormatError:
    return FormatError("tuned tiles: a tile that does not fit its shape")


def _rows(fields: Fields, name: str, length: int) -> list[list[int]]:
    rows = fields.items(name, MAX_TILES)
    for row in rows:
        if not isinstance(row, list) or len(row) != length:
            raise fields.wrong(name, f"rows of {length} numbers")
        if not all(type(value) is int and 1 <= value <= MAX_EXTENT for value in row):
            raise fields.wrong(name, f"rows of integers from 1 to {MAX_EXTENT}")
    return rows


def _kernels() -> str:
    return hashlib.sha256("\0".join(read_source(name) for name in SOURCES).encode()).hexdigest()
