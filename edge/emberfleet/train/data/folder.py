"""A folder with one sub-folder per class, JPEG and PNG images inside: the form people's own photos take."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emberfleet.core.errors import DataError
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.data.images import MAX_FILE_BYTES, SUFFIXES, allocate_images, decode_image


def load_folder(root: Path, split: str, size: tuple[int, int], channels: int = 3) -> Dataset:
    """Every image under `root`; the class is the name of its sub-folder.

    Classes and files are taken in the order of their names; files and folders whose name starts
    with a dot, and files that are not called ``.jpg``, ``.jpeg`` or ``.png``, are left out.

    Args:
        root: The folder. Where it holds a folder named after `split` that itself holds the
            sub-folders of classes, that one is read.
        split: "train" (all of `root` when it is not divided), or any other folder inside, as "test".
        size: Height and width every image is brought to.
        channels: 1 for grey, 3 for colour.

    Raises:
        DataError: No such folder or split, fewer than two classes, an empty class, an image that
            cannot be read.
    """
    folder = find_split(root, split)
    classes = [entry for entry in _entries(folder) if entry.is_dir()]
    if len(classes) < 2:
        raise DataError(
            f"{folder} holds {len(classes)} sub-folders, expected at least two: one for each class"
        )
    files: list[tuple[Path, int]] = []
    for label, entry in enumerate(classes):
        found = [path for path in _entries(entry) if path.suffix.lower() in SUFFIXES and path.is_file()]
        if not found:
            raise DataError(f"{entry} holds no image, expected files that end in {', '.join(SUFFIXES)}")
        files += [(path, label) for path in found]
    images = allocate_images(len(files), size, channels, str(folder))
    for n, (path, _) in enumerate(files):
        images[n] = decode_image(read_image_file(path), str(path), size, channels)
    labels = np.array([label for _, label in files], np.int64)
    return Dataset(images, labels, tuple(entry.name for entry in classes))


def find_split(root: Path, split: str) -> Path:
    """The folder that holds the classes of `split`.

    Raises:
        DataError: There is none.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder")
    inside = root / split
    if split and "/" not in split and split not in (".", "..") and inside.is_dir():
        if any(entry.is_dir() for entry in _entries(inside)):
            return inside
    if split != "train":
        raise DataError(f"{root} holds no folder {split!r} with one sub-folder per class")
    return root


def read_image_file(path: Path) -> bytes:
    """The bytes of an image file, at most 64 MiB of them.

    Raises:
        DataError: Missing, not readable or larger.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise DataError(f"{path}: over {MAX_FILE_BYTES} bytes, refused")
    return data


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}") from error
