"""CIFAR-10 in its binary layout: ``.bin``, ``.bin.gz`` or the authors' ``cifar-10-binary.tar.gz``.

A record is one byte of label and 3072 bytes of pixels: the red plane, the green, the blue, each
32 x 32 in row-major order.

Source:
    A. Krizhevsky, "The CIFAR-10 dataset", section "Binary version".
"""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from typing import IO, cast

import numpy as np

from emberfleet.core.errors import DataError
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.data.packed import PackedReader

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SIDE = 32
RECORD_BYTES = 1 + 3 * SIDE * SIDE
MAX_BATCH_BYTES = 60_000 * RECORD_BYTES
MAX_ARCHIVE_BYTES = 1 << 28
ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"
BATCHES = {"train": re.compile(r"data_batch_[1-9]\.bin"), "test": re.compile(r"test_batch\.bin")}


def decode_records(data: bytes, source: str) -> Dataset:
    """Turn binary records into a data set; `source` names the file in errors.

    Raises:
        DataError: Not a whole number of records, or a label over 9.
    """
    if len(data) % RECORD_BYTES:
        raise DataError(
            f"{source}: ends at byte {len(data)} in the middle of a record; records are {RECORD_BYTES} bytes"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, RECORD_BYTES)
    labels = records[:, 0].astype(np.int64)
    outside = np.flatnonzero(labels >= len(CIFAR10_CLASSES))
    if len(outside):
        first = int(outside[0])
        raise DataError(f"{source}: label {labels[first]} at byte {first * RECORD_BYTES}, expected 0 to 9")
    planes = records[:, 1:].reshape(-1, 3, SIDE, SIDE)
    return Dataset(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels, CIFAR10_CLASSES)


def load_cifar10(root: Path, split: str) -> Dataset:
    """Every batch of `split` ("train" or "test") found under `root`, in the order of their names.

    Looks for batch files in `root` and in its sub-folder ``cifar-10-batches-bin``, then for the
    archive; `root` may also be the archive itself.

    Raises:
        DataError: Another split, nothing found, or a damaged file.
    """
    if split not in BATCHES:
        raise DataError(f"no split {split!r} here, expected one of: {', '.join(BATCHES)}")
    if root.is_file():
        return _join(_read_archive(root, split))
    batches: dict[str, Path] = {}
    for folder in (root, root / FOLDER):
        for path in sorted(folder.glob("*_batch*.bin*")):
            name = path.name.removesuffix(".gz")
            if BATCHES[split].fullmatch(name):
                batches.setdefault(name, path)
    if batches:
        return _join([_read_batch(path) for _, path in sorted(batches.items())])
    if (root / ARCHIVE).is_file():
        return _join(_read_archive(root / ARCHIVE, split))
    raise DataError(
        f"{root} holds neither the binary batches of CIFAR-10 ({split}) nor {ARCHIVE}; "
        "`--download` fetches the standard file"
    )


def _read_batch(path: Path) -> Dataset:
    with PackedReader(path, MAX_BATCH_BYTES) as reader:
        return decode_records(reader.read(MAX_BATCH_BYTES + 1), str(path))


def _read_archive(path: Path, split: str) -> list[Dataset]:
    found: dict[str, Dataset] = {}
    with PackedReader(path, MAX_ARCHIVE_BYTES) as reader:
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r|") as archive:
                for member in archive:
                    folder, _, name = member.name.rpartition("/")
                    if folder != FOLDER or not BATCHES[split].fullmatch(name):
                        continue
                    source = f"{path}: {member.name}"
                    if not member.isreg() or member.size > MAX_BATCH_BYTES or name in found:
                        raise DataError(f"{source}: {member.size} bytes, expected one plain file of records")
                    stream = archive.extractfile(member)
                    assert stream is not None
                    found[name] = decode_records(stream.read(), source)
            reader.skip_rest()
        except (tarfile.TarError, EOFError, UnicodeError, ValueError) as error:
            raise DataError(f"{path}: damaged tar archive before byte {reader.offset}: {error}") from error
    if not found:
        raise DataError(f"{path}: holds no {split} batch in {FOLDER}/")
    return [batch for _, batch in sorted(found.items())]


def _join(batches: list[Dataset]) -> Dataset:
    images = np.concatenate([batch.images for batch in batches])
    return Dataset(images, np.concatenate([batch.labels for batch in batches]), CIFAR10_CLASSES)
