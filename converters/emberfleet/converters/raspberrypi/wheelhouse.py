"""A folder of wheels that goes into a package, so that the device needs no package index."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from emberfleet.core.errors import ConversionError
from emberfleet.core.files import read_limited

MAX_WHEEL_BYTES: Final = 256 << 20
MAX_WHEELS: Final = 512
_NAME: Final = re.compile(r"[\w.]+-[\w.+!]+(-\d[\w.]*)?-[\w.]+-[\w.]+-(?P<platforms>[\w.]+)\.whl", re.ASCII)
PROCESSORS: Final = ("aarch64", "armv7l", "armv6l", "armv8l")


@dataclass(frozen=True, slots=True)
class Wheel:
    """One file ``PROJECT-VERSION-PYTHON-ABI-PLATFORM.whl``."""

    name: str
    data: bytes


def read_wheelhouse(folder: Path) -> list[Wheel]:
    """Read every wheel in a folder.

    Raises:
        ConversionError: no folder, no wheels, too many, a file that is no wheel, or one for a processor
            that no Raspberry Pi has.
    """
    if not folder.is_dir():
        raise ConversionError(f"wheelhouse {folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".whl")
    if not 1 <= len(paths) <= MAX_WHEELS:
        raise ConversionError(f"wheelhouse {folder}: {len(paths)} wheels, expected 1 to {MAX_WHEELS}")
    return [_read(path) for path in paths]


def _read(path: Path) -> Wheel:
    match = _NAME.fullmatch(path.name)
    if match is None or not zipfile.is_zipfile(path):
        raise ConversionError(f"{path}: not a wheel")
    platforms = match["platforms"].split(".")
    if not any(_runs_on_a_pi(platform) for platform in platforms):
        raise ConversionError(
            f"{path}: made for {', '.join(platforms)}, and a Raspberry Pi is one of {', '.join(PROCESSORS)}; "
            "fill the folder with pip download --only-binary=:all: --platform manylinux_2_28_aarch64"
        )
    return Wheel(path.name, read_limited(path, MAX_WHEEL_BYTES))


def _runs_on_a_pi(platform: str) -> bool:
    return platform == "any" or (
        platform.startswith(("linux", "manylinux")) and platform.endswith(PROCESSORS)
    )
