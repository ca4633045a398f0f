"""A zip of images with a table `labels.csv`: one line per image, columns named in its first line.

The table lies in the zip or beside it; the images may also lie unpacked beside the table. A label
is a class name, or, with `codes`, a string of characters with one class per position.
"""

from __future__ import annotations

import contextlib
import csv
import io
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from emberfleet.core.arrays import Int64
from emberfleet.core.errors import DataError
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.data.folder import read_image_file
from emberfleet.train.data.images import MAX_FILE_BYTES, allocate_images, decode_image
from emberfleet.train.data.packed import PackedReader

TABLE = "labels.csv"
MAX_TABLE_BYTES = 64 << 20
MAX_FILES = 1_000_000
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)
"""What zipfile raises on a damaged, encrypted or exotically packed archive."""


@dataclass(frozen=True, slots=True)
class Labelling:
    """How to read labels from the table.

    Attributes:
        columns: The label's columns; with several, their texts are joined into one code.
        codes: A label is a code: one class per character, all codes of one length.
        classes: The class names, in order; None takes those that occur, sorted (as numbers when
            all of them are).
        ignore: Lines with one of these labels are left out.
    """

    columns: tuple[str, ...] = ("label",)
    codes: bool = False
    classes: tuple[str, ...] | None = None
    ignore: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One image of the table: its file, its label and the line that states them."""

    file: str
    label: str
    line: int


class Files(Protocol):
    """Where the images are: a zip or a folder."""

    def read(self, name: str) -> bytes: ...


def load_archive(
    path: Path, size: tuple[int, int], channels: int = 3, labelling: Labelling | None = None
) -> Dataset:
    """Every image of a table with its label.

    Args:
        path: A zip (its table inside, or beside it), or a folder that holds `labels.csv` and either
            one zip or the images themselves.
        size: Height and width every image is brought to.
        channels: 1 for grey, 3 for colour.
        labelling: How to read labels; column `label`, one class per image, when None.

    Raises:
        DataError: Something is missing, damaged or mislabelled; names the file and the line.
    """
    rules = labelling or Labelling()
    with _open_files(path) as (files, table_source, table):
        rows = read_table(table, table_source, rules)
        labels, classes = encode_labels(rows, rules, table_source)
        images = allocate_images(len(rows), size, channels, table_source)
        for n, row in enumerate(rows):
            images[n] = decode_image(files.read(row.file), f"{path}: {row.file}", size, channels)
    return Dataset(images, labels, classes)


def read_table(table: bytes, source: str, labelling: Labelling) -> list[Row]:
    """The lines of a labels.csv that are not ignored.

    Raises:
        DataError: Not a table in UTF-8, a column is missing, a file is named twice or not inside
            the archive, or no line is left.
    """
    try:
        reader = csv.DictReader(io.StringIO(table.decode("utf-8-sig"), newline=""), strict=True)
        header = reader.fieldnames or []
        for column in ("file", *labelling.columns):
            if column not in header:
                raise DataError(
                    f"{source}, line 1: no column {column!r}; the columns are {', '.join(map(repr, header))}"
                )
        rows: dict[str, Row] = {}
        for entry in reader:
            line = reader.line_num
            if None in entry or any(value is None for value in entry.values()):
                raise DataError(f"{source}, line {line}: expected {len(header)} columns")
            name, label = entry["file"], "".join(entry[column] for column in labelling.columns)
            if not name or name.startswith("/") or ".." in PurePosixPath(name).parts or "\\" in name:
                raise DataError(f"{source}, line {line}: {name!r} is not a path inside the archive")
            if name in rows:
                raise DataError(f"{source}, line {line}: {name!r} stands on line {rows[name].line} already")
            if not label:
                raise DataError(f"{source}, line {line}: the label of {name!r} is empty")
            if label not in labelling.ignore:
                rows[name] = Row(name, label, line)
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: not UTF-8 text at byte {error.start}") from error
    except csv.Error as error:
        raise DataError(f"{source}, after line {reader.line_num}: {error}") from error
    if not rows:
        raise DataError(f"{source}: no image is left in the table")
    return list(rows.values())


def encode_labels(rows: Sequence[Row], labelling: Labelling, source: str) -> tuple[Int64, tuple[str, ...]]:
    """Class indices, ``(N,)`` or ``(N, P)`` for codes, and the class names they point into.

    Raises:
        DataError: A label is not among the given classes, or codes differ in length.
    """
    texts = [tuple(row.label) if labelling.codes else (row.label,) for row in rows]
    for row, text in zip(rows, texts, strict=True):
        if len(text) != len(texts[0]):
            raise DataError(
                f"{source}, line {row.line}: code {row.label!r} has {len(text)} characters, expected "
                f"{len(texts[0])} as on line {rows[0].line}"
            )
    classes = labelling.classes or _sorted_names({name for text in texts for name in text})
    index = {name: k for k, name in enumerate(classes)}
    labels = np.empty((len(rows), len(texts[0])), np.int64)
    for n, (row, text) in enumerate(zip(rows, texts, strict=True)):
        for p, name in enumerate(text):
            if name not in index:
                raise DataError(f"{source}, line {row.line}: label {name!r} is none of {list(classes)[:20]}")
            labels[n, p] = index[name]
    return (labels if labelling.codes else labels[:, 0].copy()), classes


def _sorted_names(names: set[str]) -> tuple[str, ...]:
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


@contextlib.contextmanager
def _open_files(path: Path) -> Iterator[tuple[Files, str, bytes]]:
    """The images, the name of the table and its bytes."""
    beside = (path if path.is_dir() else path.parent) / TABLE
    zips = sorted(path.glob("*.zip")) if path.is_dir() else [path]
    if len(zips) > 1:
        raise DataError(f"{path} holds {len(zips)} zip files, expected one; name the file itself")
    if not zips:
        yield _Folder(path), str(beside), _read_plain(beside)
        return
    try:
        archive = zipfile.ZipFile(zips[0])
    except DAMAGE as error:
        raise DataError(f"cannot read {zips[0]} as a zip: {error}") from error
    with archive:
        files = _Zip(zips[0], archive)
        if files.has(TABLE):
            yield files, f"{zips[0]}: {TABLE}", files.read(TABLE, MAX_TABLE_BYTES)
        else:
            yield files, str(beside), _read_plain(beside)


def _read_plain(path: Path) -> bytes:
    with PackedReader(path, MAX_TABLE_BYTES) as reader:
        return reader.read(MAX_TABLE_BYTES + 1)


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes:
        return read_image_file(self._folder / name)


class _Zip:
    """The members of a zip, each read with a limit."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive
        if len(archive.infolist()) > MAX_FILES:
            raise DataError(f"{path}: {len(archive.infolist())} files, expected at most {MAX_FILES}")
        self._members = {member.filename: member for member in archive.infolist()}
        if len(self._members) != len(archive.infolist()):
            raise DataError(f"{path}: two files inside have the same name")

    def has(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str, limit_bytes: int = MAX_FILE_BYTES) -> bytes:
        member = self._members.get(name)
        if member is None:
            raise DataError(f"{self._path}: holds no file {name!r}, which {TABLE} names")
        if member.file_size > limit_bytes:
            raise DataError(f"{self._path}: {name}: {member.file_size} bytes, expected at most {limit_bytes}")
        try:
            with self._archive.open(member) as stream:
                data = stream.read(limit_bytes + 1)
        except DAMAGE as error:
            raise DataError(
                f"{self._path}: {name}, at byte {member.header_offset} of the zip, is damaged: {error}"
            ) from error
        if len(data) != member.file_size:
            raise DataError(f"{self._path}: {name}: {len(data)} bytes, the zip states {member.file_size}")
        return data
