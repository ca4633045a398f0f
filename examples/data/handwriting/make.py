"""Makes the example data beside this file: handwriting of real people, from MNIST and QMNIST.

Writers are drawn at random, with a fixed seed, among those who wrote all ten digits; nobody is in two
roles. The same inputs give the same bytes.

    python examples/data/handwriting/make.py --mnist DIR --writers FILE

DIR holds the two training files of MNIST; FILE is `qmnist-train-labels-idx2-int.gz`, whose row i tells
who wrote training image i. Both may be packed with gzip or not.
"""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path

import numpy as np

from emberfleet.core.arrays import Array
from emberfleet.core.files import write_atomically
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.data.idx import encode_idx, load_mnist, read_idx

SEED = 2026
ROLES = {"base": 8, "device": 60, "test": 60}
WRITER_COLUMN = 2


def choose_writers(train: Dataset, seed: int = SEED) -> dict[str, list[int]]:
    """Draw the writers of each role among those who wrote every digit; sorted by number."""
    assert train.writers is not None
    complete = [
        int(writer)
        for writer in np.unique(train.writers)
        if len(np.unique(train.labels[train.writers == writer])) == len(train.classes)
    ]
    drawn = np.random.RandomState(seed).permutation(complete).tolist()  # its sequence never changes
    chosen: dict[str, list[int]] = {}
    for role, count in ROLES.items():
        chosen[role], drawn = sorted(drawn[:count]), drawn[count:]
    return chosen


def make_files(train: Dataset) -> dict[str, bytes]:
    """The name and contents of every generated file, given MNIST's training part with its writers."""
    assert train.writers is not None
    order: list[int] = []
    lines = ["writer,role,images"]
    for role, writers in choose_writers(train).items():
        for writer in writers:
            own = np.flatnonzero(train.writers == writer)
            order += own[np.argsort(train.labels[own], kind="stable")].tolist()
            lines.append(f"{writer},{role},{len(own)}")
    chosen = train.subset(order)
    assert chosen.writers is not None
    return {
        "images.idx3-ubyte.gz": _pack(chosen.images[..., 0]),
        "labels.idx1-ubyte.gz": _pack(chosen.labels.astype(np.uint8)),
        "writers.idx1-int.gz": _pack(chosen.writers.astype(np.int32)),
        "writers.csv": ("\n".join(lines) + "\n").encode(),
    }


def read_sources(mnist: Path, writers: Path) -> Dataset:
    """MNIST's training part with the writer of each image."""
    train = load_mnist(mnist, "train")
    table = read_idx(writers)
    return Dataset(train.images, train.labels, train.classes, table[:, WRITER_COLUMN].astype(np.int64))


def _pack(array: Array) -> bytes:
    """A gzip file without time or name; Python's own header differs from version to version."""
    data = encode_idx(array)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9)
    header = b"\x1f\x8b\x08\x00" + bytes(4) + b"\x02\xff"
    trailer = zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")
    return header + deflate.compress(data) + deflate.flush() + trailer


def main() -> None:
    """Write the files beside this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True, metavar="DIR")
    parser.add_argument("--writers", type=Path, required=True, metavar="FILE")
    arguments = parser.parse_args()
    for name, data in make_files(read_sources(arguments.mnist, arguments.writers)).items():
        write_atomically(Path(__file__).parent / name, data)
        print(f"{name}: {len(data)} bytes")


if __name__ == "__main__":
    main()
