"""Data sets by name, as `emberfleet train --data NAME --root DIR` takes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from emberfleet.core.errors import ConfigError, DataError
from emberfleet.train.data.cifar import load_cifar10
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.data.handwriting import load_handwriting
from emberfleet.train.data.idx import FASHION_CLASSES, MNIST_CLASSES, load_mnist

if TYPE_CHECKING:
    from emberfleet.train.data.archive import Labelling

SPLITS = {
    "mnist": ("train", "test"),
    "fashion-mnist": ("train", "test"),
    "cifar10": ("train", "test"),
    "handwriting": ("train", "base", "devices", "test"),
    "folder": ("train",),
    "zip": ("train",),
}
"""The splits that each name always has; a folder may hold more, as folders of their own."""
PHOTO_SIDE = 64


def load(
    name: str,
    root: Path,
    split: str = "train",
    *,
    size: int | tuple[int, int] | None = None,
    channels: int = 3,
    labelling: Labelling | None = None,
) -> Dataset:
    """Read a data set.

    Args:
        name: One of `SPLITS`.
        root: The folder of its files; for "zip" also the file itself.
        split: Which part; see `SPLITS`.
        size: Height and width, or one number for both, that images are brought to; None keeps the
            native size of the standard sets and takes 64 x 64 for folder and zip.
        channels: Of the images of folder and zip: 1 for grey, 3 for colour.
        labelling: How a zip's table is read.

    Raises:
        ConfigError: An unknown name, or folders and zips without Pillow.
        DataError: Files are missing, damaged or mislabelled; or the split does not exist.
    """
    if name not in SPLITS:
        raise ConfigError(f"no data set is called {name!r}, expected one of: {', '.join(SPLITS)}")
    sides = (size, size) if isinstance(size, int) else size
    if name in ("folder", "zip"):
        return _load_photos(name, root, split, sides or (PHOTO_SIDE, PHOTO_SIDE), channels, labelling)
    if not root.exists():
        advice = "" if name == "handwriting" else ", or is made and filled by `--download`"
        raise DataError(f"{root} does not exist; `--root` names the folder of the files of {name}{advice}")
    if name == "handwriting":
        dataset = load_handwriting(root, split)
    elif name == "cifar10":
        dataset = load_cifar10(root, split)
    else:
        dataset = load_mnist(root, split, MNIST_CLASSES if name == "mnist" else FASHION_CLASSES)
    if sides is None or sides == dataset.images.shape[1:3]:
        return dataset
    _require_pillow()
    from emberfleet.train.data.images import resize_images

    return Dataset(resize_images(dataset.images, sides), dataset.labels, dataset.classes, dataset.writers)


def _load_photos(
    name: str, root: Path, split: str, size: tuple[int, int], channels: int, labelling: Labelling | None
) -> Dataset:
    _require_pillow()
    if name == "folder":
        from emberfleet.train.data.folder import load_folder

        return load_folder(root, split, size, channels)
    from emberfleet.train.data.archive import load_archive

    if split != "train":
        raise DataError(f"a zip has no split {split!r}; read it as train and hold a part out")
    return load_archive(root, size, channels, labelling)


def _require_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            'reading or resizing pictures needs Pillow: pip install "emberfleet[train]"'
        ) from error
