"""Photos without labels: what ranges for 8 bits are observed on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emberfleet.core.arrays import UInt8
from emberfleet.core.errors import DataError
from emberfleet.train.data.folder import read_image_file
from emberfleet.train.data.images import SUFFIXES, allocate_images, decode_image

MAX_FILES = 1_000_000


def load_photos(folder: Path, size: tuple[int, int], channels: int, limit: int) -> UInt8:
    """The JPEG and PNG files in a folder and its sub-folders, evenly spaced by name where there are many.

    Args:
        folder: The folder; what begins with a dot is left out.
        size: Height and width every photo is brought to.
        channels: 1 for grey, 3 for colour.
        limit: Most photos to read.

    Returns:
        ``(N, H, W, C)``.

    Raises:
        DataError: no such folder, no photo in it, too many files, a photo that cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    found: list[Path] = []
    for count, path in enumerate(folder.rglob("*")):
        if count >= MAX_FILES:
            raise DataError(f"{folder} holds over {MAX_FILES} files; name a folder with the photos alone")
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            found.append(path)
    if not found:
        raise DataError(f"{folder} holds no photo, expected files that end in {', '.join(SUFFIXES)}")
    found.sort()
    if len(found) > limit:
        found = [found[round(place)] for place in np.linspace(0, len(found) - 1, limit)]
    images = allocate_images(len(found), size, channels, str(folder))
    for index, path in enumerate(found):
        images[index] = decode_image(read_image_file(path), str(path), size, channels)
    return images
