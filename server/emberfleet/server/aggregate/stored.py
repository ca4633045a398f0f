"""The opened updates of one sealed round: one private file with a row for each device of the cohort.

A row stands where its device stands among the cohort's ids in ascending order, whenever it arrives. So
whatever reads the file from top to bottom goes by a fixed order, and the bits of a float sum do not depend
on who was first. A row that nobody wrote is a hole and takes no room on the disk.

The file is mapped, not read: a rule takes a block of columns of all rows at a time. Equal distances between
the rows are what lets BLAS read them where they lie. The mapped pages are the operating system's cache, and
are given back after every `MAPPED_BYTES`, so the process does not seem to hold what it only walks over.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from emberfleet.core.arrays import Array, Int64
from emberfleet.core.errors import RoundError, ShapeError, StorageError
from emberfleet.core.files import PRIVATE_MODE, storage_errors
from emberfleet.core.updates import UpdatePlan

MAPPED_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class StoredUpdates:
    """The updates that count, ready to be read block by block.

    Attributes:
        devices: Whose they are, ascending.
        weights: What each weighs: its number of samples.
        rows: Where each stands in `values`, ascending.
        values: ``(rows, size)`` numbers as on the wire; rows that are not named here do not count.
        mapping: Where `values` lie, if they are a mapped file.
    """

    devices: tuple[str, ...]
    weights: tuple[int, ...]
    rows: tuple[int, ...]
    values: Array
    mapping: mmap.mmap | None = None

    def __post_init__(self) -> None:
        if not self.devices:
            raise RoundError("aggregate: there is no update, expected at least one")
        if list(self.devices) != sorted(set(self.devices)) or list(self.rows) != sorted(set(self.rows)):
            raise RoundError("aggregate: devices and rows must ascend, each once")
        if not len(self.devices) == len(self.weights) == len(self.rows):
            raise RoundError("aggregate: devices, weights and rows differ in number")
        if any(weight < 1 for weight in self.weights):
            raise RoundError(f"aggregate: a weight of {min(self.weights)}, expected 1 or more")
        if self.values.ndim != 2 or self.rows[0] < 0 or self.rows[-1] >= len(self.values):
            raise ShapeError(f"aggregate: row {self.rows[-1]} of values of shape {self.values.shape}")

    @classmethod
    def of(cls, updates: Mapping[str, tuple[int, Array]]) -> StoredUpdates:
        """Updates that lie in memory: weight and flat wire numbers by device."""
        devices = tuple(sorted(updates))
        return cls(
            devices,
            tuple(updates[device][0] for device in devices),
            tuple(range(len(devices))),
            np.stack([updates[device][1] for device in devices]) if devices else np.empty((0, 0)),
        )

    @property
    def stretch(self) -> int:
        """Columns of all rows that are `MAPPED_BYTES` together."""
        return max(1, MAPPED_BYTES // (len(self.values) * self.values.itemsize))

    def give_back(self, begin: int, end: int) -> None:
        """Say that these columns are done with: their pages need not stay mapped; reading them again may."""
        if self.mapping is None:
            return
        size, item = self.values.shape[1], self.values.itemsize
        for row in range(self.rows[0], self.rows[-1] + 1):
            first, last = ((row * size + column) * item // mmap.PAGESIZE for column in (begin, end))
            if last > first:
                self.mapping.madvise(
                    mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE
                )

    def block(self, begin: int, end: int) -> Array:
        """``(devices, end - begin)`` wire numbers of all updates that count, a copy."""
        places: slice | Int64 = np.array(self.rows)
        if len(self.rows) == self.rows[-1] - self.rows[0] + 1:
            places = slice(self.rows[0], self.rows[-1] + 1)
        return np.array(self.values[places, begin:end])


class UpdateFile:
    """The file of one round; every method opens it anew, so a killed server has nothing to repair."""

    def __init__(self, path: str | Path, cohort: Collection[str], plan: UpdatePlan) -> None:
        self._path = Path(path)
        self._rows = {device: row for row, device in enumerate(sorted(cohort))}
        self._plan = plan

    def write(self, device_id: str, values: Array) -> None:
        """Keep one update on the disk before returning; a row written again is replaced.

        Raises:
            ShapeError: Not the type and number of values that the plan says.
            RoundError: A device outside the cohort.
            StorageError: The disk is full or not writable; the row then does not count.
        """
        if values.dtype != self._plan.wire_type or values.shape != (self._plan.size,):
            raise ShapeError(
                f"update: {values.dtype} {values.shape}, expected {self._plan.wire_type} ({self._plan.size},)"
            )
        rest = memoryview(np.ascontiguousarray(values).view(np.uint8).data)
        offset = self._row(device_id) * self._plan.size_bytes
        with storage_errors("write", self._path):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
            try:
                while rest:
                    written = os.pwrite(descriptor, rest, offset)
                    rest, offset = rest[written:], offset + written
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def updates(self, accepted: Mapping[str, int]) -> StoredUpdates:
        """Map the updates that count.

        Args:
            accepted: Weight by device.

        Raises:
            RoundError: None, or a device outside the cohort.
            StorageError: The file is missing or shorter than its rows.
        """
        devices = tuple(sorted(accepted))
        rows = tuple(self._row(device) for device in devices)
        if not devices:
            raise RoundError("aggregate: there is no update, expected at least one")
        shape = (rows[-1] + 1, self._plan.size)
        with storage_errors("read", self._path):
            found = self._path.stat().st_size
            if found < shape[0] * self._plan.size_bytes:
                raise StorageError(
                    f"{self._path}: {found} bytes, expected {shape[0] * self._plan.size_bytes} or more; "
                    "the round's updates are lost, so let it fail"
                )
            with open(self._path, "rb") as stream:
                mapping = mmap.mmap(stream.fileno(), shape[0] * self._plan.size_bytes, prot=mmap.PROT_READ)
        values = np.frombuffer(mapping, self._plan.wire_type).reshape(shape)
        return StoredUpdates(devices, tuple(accepted[device] for device in devices), rows, values, mapping)

    def _row(self, device_id: str) -> int:
        row = self._rows.get(device_id)
        if row is None:
            raise RoundError(f"update: device {device_id[:40]} is not of this round's cohort")
        return row
