"""The handwriting of many people that the repository carries, in `examples/data/handwriting`.

Every writer has one role: `base` trains the first model, each `device` is a device of its own, `test`
is never trained on.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from emberfleet.core.errors import DataError
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.data.idx import MNIST_CLASSES, find_idx, read_idx, read_pair
from emberfleet.train.data.packed import PackedReader

ROLES = {"base": ("base",), "devices": ("device",), "test": ("test",), "train": ("base", "device")}
"""The roles of each split; `train` is everybody but the test writers."""
MAX_TABLE_BYTES = 1 << 20


def load_handwriting(root: Path, split: str) -> Dataset:
    """The images of one split ("base", "devices", "test" or "train") with their writers.

    Raises:
        DataError: Another split, or files that are missing, damaged or do not fit together.
    """
    if split not in ROLES:
        raise DataError(f"no split {split!r} in handwriting, expected one of: {', '.join(ROLES)}")
    everyone = read_pair(
        find_idx(root, "images.idx3-ubyte"), find_idx(root, "labels.idx1-ubyte"), MNIST_CLASSES
    )
    path = find_idx(root, "writers.idx1-int")
    writers = read_idx(path)
    if writers.dtype != np.int32 or writers.shape != (len(everyone),):
        raise DataError(
            f"{path}: {writers.dtype} {writers.shape} at byte 2, expected int32 ({len(everyone)},)"
        )
    table = read_roles(root / "writers.csv")
    unknown = np.flatnonzero(~np.isin(writers, list(table)))
    if len(unknown):
        first = int(unknown[0])
        raise DataError(f"{path}: writer {writers[first]} at byte {8 + 4 * first} is not in writers.csv")
    dataset = Dataset(everyone.images, everyone.labels, everyone.classes, writers.astype(np.int64))
    chosen = [writer for writer, role in table.items() if role in ROLES[split]]
    return dataset.subset(np.isin(writers, chosen))


def read_roles(path: Path) -> dict[int, str]:
    """The role of each writer, as `writers.csv` states it.

    Raises:
        DataError: Missing, or a line that is not writer, role, number of images.
    """
    with PackedReader(path, MAX_TABLE_BYTES) as reader:
        data = reader.read(MAX_TABLE_BYTES + 1)
    roles: dict[int, str] = {}
    try:
        lines = list(csv.DictReader(data.decode("utf-8").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a table of text: {error}") from error
    for number, line in enumerate(lines, start=2):
        writer, role = line.get("writer") or "", line.get("role")
        if not (writer.isascii() and writer.isdigit()) or role not in ("base", "device", "test"):
            raise DataError(f"{path}, line {number}: expected a writer's number and base, device or test")
        if int(writer) in roles:
            raise DataError(f"{path}, line {number}: writer {writer} has a role already")
        roles[int(writer)] = role
    return roles
