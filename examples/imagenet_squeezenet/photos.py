"""The photos: read out of their .zip once, brought to the network's size as each source did it."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from emberfleet.core.arrays import Int64, UInt8
from emberfleet.core.errors import DataError
from emberfleet.core.files import read_limited

SHORT_SIDE = 256
MAX_CSV_BYTES = 1 << 20
MAX_PHOTO_BYTES = 16 << 20
MAX_PIXELS = 64_000_000


def read_labelled(folder: Path, column: str, side: int, limit: int | None = None) -> tuple[UInt8, list[str]]:
    """Photos of a folder with ``images.zip`` and ``labels.csv``, short side 256, centre cut to `side`.

    Args:
        folder: Where both files lie.
        column: The column of ``labels.csv`` to give back for each photo.
        side: Height and width of the result, in pixels.
        limit: Evenly spaced photos of the list; None: all.

    Returns:
        ``(N, side, side, 3)`` and the column's texts.

    Raises:
        DataError: A photo is missing, damaged or absurdly large.
        StorageError: A file is missing.
    """
    rows = list(csv.DictReader(io.StringIO(read_limited(folder / "labels.csv", MAX_CSV_BYTES).decode())))
    if not rows or not {"file", column} <= set(rows[0]):
        raise DataError(f"{folder / 'labels.csv'}: no columns 'file' and '{column}'")
    if limit is not None and limit < len(rows):
        rows = [rows[round(n)] for n in np.linspace(0, len(rows) - 1, limit)]
    images = np.empty((len(rows), side, side, 3), np.uint8)
    path = folder / "images.zip"
    try:
        with zipfile.ZipFile(path) as archive:
            for n, row in enumerate(rows):
                if archive.getinfo(row["file"]).file_size > MAX_PHOTO_BYTES:
                    raise DataError(f"{path}: {row['file']} is over {MAX_PHOTO_BYTES} bytes")
                images[n] = centre(archive.read(row["file"]), side)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: {error}") from error
    return images, [row[column] for row in rows]


def read_imagenet(folder: Path, side: int) -> tuple[UInt8, Int64]:
    """The ImageNet samples ``(N, side, side, 3)`` and their classes ``(N,)``."""
    images, classes = read_labelled(folder, "class_index", side)
    return images, np.array([int(number) for number in classes], np.int64)


def centre(data: bytes, side: int) -> UInt8:
    """A photo scaled until its short side has 256 pixels, and the middle of it, ``(side, side, 3)``."""
    image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(f"a photo of {width} x {height} pixels, expected at most {MAX_PIXELS}")
    factor = SHORT_SIDE / min(width, height)
    size = (round(width * factor), round(height * factor))
    image = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))


def stretched(path: Path, side: int) -> UInt8:
    """A whole picture stretched to ``(1, side, side, 3)`` as OpenCV's INTER_LINEAR does it for bytes.

    Two pixels each way, so that where it shrinks some are never read; shares in 2048ths, sums cut to 16
    bits between the two ways. The published results of ``car.png`` were made so.
    """
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), np.int64)
    first, second, near, far = _shares(pixels.shape[1], side)
    rows = (pixels[:, first] * near[:, None] + pixels[:, second] * far[:, None]) >> 4
    first, second, near, far = _shares(pixels.shape[0], side)
    summed = ((near[:, None, None] * rows[first]) >> 16) + ((far[:, None, None] * rows[second]) >> 16)
    return ((summed + 2) >> 2).astype(np.uint8)[None]


def _shares(extent: int, side: int) -> tuple[Int64, Int64, Int64, Int64]:
    """For each of `side` pixels, the two of `extent` that it lies between, and their shares in 2048ths."""
    at = ((np.arange(side) + 0.5) * (extent / side) - 0.5).astype(np.float32)
    first = np.floor(at).astype(np.int64)
    share = np.where((first < 0) | (first >= extent - 1), 0.0, at - first)
    first = np.clip(first, 0, extent - 1)
    far = np.rint(share * 2048).astype(np.int64)
    near = np.rint((1.0 - share) * 2048).astype(np.int64)
    return first, np.minimum(first + 1, extent - 1), near, far
