from __future__ import annotations

import csv
import gzip
import importlib.util
import shutil
import sys
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from emberfleet.core.errors import DataError
from emberfleet.train.data.idx import encode_idx
from emberfleet.train.data.names import load

FOLDER = Path(__file__).resolve().parents[3] / "examples" / "data" / "handwriting"
MEMBERS = {"base": (8, 943), "devices": (60, 6637), "test": (60, 6843), "train": (68, 7580)}


@pytest.fixture(scope="module")
def make() -> ModuleType:
    """The program that made the data."""
    spec = importlib.util.spec_from_file_location("handwriting_make", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "handwriting"))


@pytest.mark.parametrize(("split", "members"), MEMBERS.items())
def test_each_split_has_its_writers(split: str, members: tuple[int, int]) -> None:
    dataset = load("handwriting", FOLDER, split)
    assert dataset.writers is not None
    assert (len(np.unique(dataset.writers)), len(dataset)) == members
    assert dataset.images.shape[1:] == (28, 28, 1)
    for writer in np.unique(dataset.writers):
        assert len(np.unique(dataset.labels[dataset.writers == writer])) == 10


def test_nobody_is_in_two_roles() -> None:
    groups = []
    for split in ("base", "devices", "test"):
        writers = load("handwriting", FOLDER, split).writers
        assert writers is not None
        groups.append(set(writers.tolist()))
    assert sum(len(group) for group in groups) == len(set().union(*groups)) == 128


def test_the_table_states_how_many_images_each_writer_has() -> None:
    everyone = [load("handwriting", FOLDER, split).writers for split in ("train", "test")]
    counts = np.bincount(np.concatenate([writers for writers in everyone if writers is not None]))
    with open(FOLDER / "writers.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 128
    assert all(counts[int(row["writer"])] == int(row["images"]) for row in rows)


def test_the_folder_stays_small_and_names_its_sources() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 2_500_000
    text = (FOLDER / "README.md").read_text()
    for word in ("LeCun", "Cortes", "Share Alike 3.0", "QMNIST", "BSD-3-Clause"):
        assert word in text
    for _, images in MEMBERS.values():
        assert f"{images:,}" in text or images == MEMBERS["train"][1]


def test_the_files_are_what_their_program_makes(make: ModuleType, shared_data: Path) -> None:
    labels = shared_data / "mnist-writers" / "qmnist-train-labels-idx2-int.gz"
    files = make.make_files(make.read_sources(shared_data / "mnist", labels))
    assert set(files) == {
        "images.idx3-ubyte.gz",
        "labels.idx1-ubyte.gz",
        "writers.idx1-int.gz",
        "writers.csv",
    }
    for name, data in files.items():
        kept = (FOLDER / name).read_bytes()
        if name.endswith(".gz"):
            assert gzip.decompress(data) == gzip.decompress(kept)
        # Other implementations of zlib pack the same bytes in their own way.
        if not name.endswith(".gz") or zlib.ZLIB_RUNTIME_VERSION.startswith("1.2"):
            assert data == kept


def test_a_writer_that_the_table_lacks_is_named(copy: Path) -> None:
    lines = (copy / "writers.csv").read_text().splitlines()
    (copy / "writers.csv").write_text("\n".join([lines[0], *lines[2:]]))
    writer = lines[1].split(",")[0]
    with pytest.raises(
        DataError, match=rf"writers.idx1-int.gz: writer {writer} at byte 8 is not in writers.csv"
    ):
        load("handwriting", copy, "test")


@pytest.mark.parametrize("line", ["x,base,1", "7,nobody,1", "7", ""])
def test_a_wrong_line_of_the_table_is_named(copy: Path, line: str) -> None:
    text = (copy / "writers.csv").read_text()
    (copy / "writers.csv").write_text(text.replace("\n", f"\n{line or text.splitlines()[1]}\n", 1))
    with pytest.raises(DataError, match=r"writers.csv, line [23]"):
        load("handwriting", copy, "test")


def test_writers_of_another_number_of_images_are_refused(copy: Path) -> None:
    (copy / "writers.idx1-int.gz").write_bytes(encode_idx(np.zeros(5, np.int32)))
    with pytest.raises(DataError, match=r"int32 \(5,\) at byte 2, expected int32 \(14423,\)"):
        load("handwriting", copy, "base")


def test_an_unknown_split_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match="expected one of: base, devices, test, train"):
        load("handwriting", FOLDER, "validation")
