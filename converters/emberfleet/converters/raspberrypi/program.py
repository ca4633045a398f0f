"""The program that is running, as files of a package: what a device runs is what wrote its model.

What a device never imports is left out: the server, and whatever writes packages like this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import emberfleet
from emberfleet.converters.raspberrypi.deb import PackedFile
from emberfleet.core.errors import ConversionError

DISTRIBUTION: Final = "emberfleet"
PACKAGES: Final = ("agent", "cli", "converters", "core", "engine", "runtime", "train")
LEFT_OUT: Final = ("converters/android", "converters/raspberrypi")
ENTRY_POINTS: Final = b"[console_scripts]\nemberfleet = emberfleet.cli.main:app\n"


@dataclass(frozen=True, slots=True)
class Program:
    """Emberfleet, without what it depends on.

    Attributes:
        version: Of the distribution.
        requirements: What has to be installed beside it, as pip takes it: no extras.
        files: Its modules and their data; the paths are below a folder of Python's search path.
    """

    version: str
    requirements: tuple[str, ...]
    files: tuple[PackedFile, ...]


def running_program() -> Program:
    """Collect the program that is running.

    Raises:
        ConversionError: it was never installed, so nobody knows its version and what it requires.
    """
    try:
        found = distribution(DISTRIBUTION)
    except PackageNotFoundError as error:
        raise ConversionError(
            "Emberfleet itself is not installed, only on Python's path: pip install it, or run make dev, "
            "so that its version and requirements are known"
        ) from error
    about = f"{DISTRIBUTION}-{found.version}.dist-info"
    files = [
        PackedFile(f"{about}/METADATA", (found.read_text("METADATA") or "").encode()),
        PackedFile(f"{about}/entry_points.txt", ENTRY_POINTS),
    ]
    for place in sorted({Path(place) for place in emberfleet.__path__}):
        for package in PACKAGES:
            files += _files_below(place, place / package)
    required = tuple(line for line in found.requires or () if "extra ==" not in line)
    return Program(found.version, required, tuple(files))


def _files_below(root: Path, folder: Path) -> list[PackedFile]:
    left_out = tuple(root / name for name in LEFT_OUT)
    return [
        PackedFile(f"{DISTRIBUTION}/{path.relative_to(root).as_posix()}", path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and "__pycache__" not in path.parts
        and not path.name.startswith(".")
        and not any(path.is_relative_to(folder) for folder in left_out)
    ]
