"""The IDX format of MNIST, Fashion-MNIST and QMNIST, gzip or not.

Two zero bytes, one byte for the type, one for the number of dimensions, each dimension as a
big-endian unsigned 32-bit number, then the values, big-endian, in row-major order.

Source:
    Y. LeCun, C. Cortes, C. Burges, "The MNIST database", section "File formats".
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from emberfleet.core.arrays import Array, Int64, UInt8
from emberfleet.core.errors import DataError
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.data.packed import PackedReader

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_DIMENSIONS = 4
MAX_BYTES = 1 << 30
MNIST_CLASSES = tuple("0123456789")
FASHION_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
PREFIXES = {"train": "train", "test": "t10k"}


def read_idx(path: Path, max_bytes: int = MAX_BYTES) -> Array:
    """Read one IDX file into an array of its own type, in the machine's byte order.

    Raises:
        DataError: Missing, truncated, damaged, of another format, or larger than `max_bytes`.
    """
    header_bytes = 4 + 4 * MAX_DIMENSIONS
    with PackedReader(path, max_bytes + header_bytes + 1) as reader:
        magic = reader.read_exactly(4, "magic number")
        if magic[:2] != b"\0\0" or magic[2] not in TYPES or not 1 <= magic[3] <= MAX_DIMENSIONS:
            raise DataError(
                f"{path}: magic number {magic.hex()} at byte 0, expected an IDX file: 0000, a type of "
                f"{', '.join(f'{code:02x}' for code in TYPES)}, and 1 to {MAX_DIMENSIONS} dimensions"
            )
        dtype = np.dtype(TYPES[magic[2]])
        sizes = np.frombuffer(reader.read_exactly(4 * magic[3], "dimensions"), ">u4")
        shape = tuple(int(size) for size in sizes)
        size_bytes = math.prod(shape) * dtype.itemsize
        if size_bytes > max_bytes:
            raise DataError(f"{path}: dimensions {shape} at byte 4 need {size_bytes} bytes, over {max_bytes}")
        values = np.frombuffer(reader.read_exactly(size_bytes, "values"), dtype).reshape(shape)
        reader.expect_end()
    return values.astype(dtype.newbyteorder("="))


def encode_idx(array: Array) -> bytes:
    """The IDX file of an array of one of the format's six types.

    Raises:
        DataError: Another type, or not 1 to 4 dimensions.
    """
    big_endian = {np.dtype(name): code for code, name in TYPES.items()}
    dtype = array.dtype.newbyteorder(">")
    if dtype not in big_endian or not 1 <= array.ndim <= MAX_DIMENSIONS:
        raise DataError(f"IDX holds no {array.dtype} with {array.ndim} dimensions")
    header = bytes([0, 0, big_endian[dtype], array.ndim])
    return header + np.array(array.shape, ">u4").tobytes() + array.astype(dtype).tobytes()


def read_images(path: Path) -> UInt8:
    """``(N, H, W, 1)`` grey images of an IDX file.

    Raises:
        DataError: As `read_idx`, or not bytes in three dimensions.
    """
    images = read_idx(path)
    if images.dtype != np.uint8 or images.ndim != 3 or 0 in images.shape[1:]:
        raise DataError(f"{path}: {images.dtype} {images.shape} at byte 2, expected bytes (N, H, W)")
    return images[..., None]


def read_labels(path: Path, classes: int) -> Int64:
    """``(N,)`` class indices of an IDX file.

    Raises:
        DataError: As `read_idx`, not bytes in one dimension, or a label outside ``[0, classes)``.
    """
    labels = read_idx(path)
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise DataError(f"{path}: {labels.dtype} {labels.shape} at byte 2, expected bytes (N,)")
    outside = np.flatnonzero(labels >= classes)
    if len(outside):
        first = int(outside[0])
        raise DataError(f"{path}: label {labels[first]} at byte {8 + first}, expected 0 to {classes - 1}")
    return labels.astype(np.int64)


def find_idx(root: Path, name: str) -> Path:
    """The path of `name`, packed (``.gz``) or not, in the folder `root`.

    Raises:
        DataError: Neither is there.
    """
    for candidate in (root / f"{name}.gz", root / name, root / f"{name.replace('-idx', '.idx')}"):
        if candidate.is_file():
            return candidate
    raise DataError(f"{root} holds neither {name}.gz nor {name}; `--download` fetches the standard files")


def read_pair(images_path: Path, labels_path: Path, classes: tuple[str, ...]) -> Dataset:
    """A data set of an image file and a label file.

    Raises:
        DataError: Either is damaged, or they do not hold the same number.
    """
    images = read_images(images_path)
    labels = read_labels(labels_path, len(classes))
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path}: {len(labels)} labels at byte 4, expected {len(images)}, one for each image "
            f"of {images_path}"
        )
    return Dataset(images, labels, classes)


def load_mnist(root: Path, split: str, classes: tuple[str, ...] = MNIST_CLASSES) -> Dataset:
    """MNIST, or Fashion-MNIST with its own class names: split "train" or "test".

    Raises:
        DataError: Another split, or the files are missing or damaged.
    """
    if split not in PREFIXES:
        raise DataError(f"no split {split!r} here, expected one of: {', '.join(PREFIXES)}")
    images = find_idx(root, f"{PREFIXES[split]}-images-idx3-ubyte")
    labels = find_idx(root, f"{PREFIXES[split]}-labels-idx1-ubyte")
    return read_pair(images, labels, classes)
