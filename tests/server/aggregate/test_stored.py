"""The file of a round's updates: private, by rows in a fixed order, and strict about what it holds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from emberfleet.core.errors import RoundError, ShapeError, StorageError
from emberfleet.core.updates import TensorPlan, UpdatePlan
from emberfleet.server.aggregate.stored import StoredUpdates, UpdateFile

PLAN = UpdatePlan((TensorPlan("w", (3,), 1.0),), 16)
COHORT = ("b", "a", "d", "c")


def row(value: int) -> np.ndarray:
    return np.full(3, value, np.int16)


def test_rows_stand_by_the_ids_of_the_devices(tmp_path: Path) -> None:
    file = UpdateFile(tmp_path / "values", COHORT, PLAN)
    for device, value in (("d", 4), ("a", 1), ("b", 2)):
        file.write(device, row(value))
    found = file.updates({"d": 40, "a": 10})
    assert (found.devices, found.weights, found.rows) == (("a", "d"), (10, 40), (0, 3))
    np.testing.assert_array_equal(found.block(0, 3), [[1, 1, 1], [4, 4, 4]])
    np.testing.assert_array_equal(found.block(1, 2), [[1], [4]])


def test_another_object_of_the_same_file_reads_what_a_killed_one_wrote(tmp_path: Path) -> None:
    UpdateFile(tmp_path / "values", COHORT, PLAN).write("c", row(3))
    UpdateFile(tmp_path / "values", COHORT, PLAN).write("c", row(9))
    again = UpdateFile(tmp_path / "values", tuple(reversed(COHORT)), PLAN)
    np.testing.assert_array_equal(again.updates({"c": 1}).block(0, 3), [[9, 9, 9]])


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        UpdateFile(tmp_path / "values", COHORT, PLAN).write("a", row(1))
    finally:
        os.umask(before)
    assert (tmp_path / "values").stat().st_mode & 0o777 == 0o600


def test_a_device_outside_the_cohort_has_no_row(tmp_path: Path) -> None:
    file = UpdateFile(tmp_path / "values", COHORT, PLAN)
    with pytest.raises(RoundError, match="not of this round"):
        file.write("e", row(1))
    with pytest.raises(RoundError, match="not of this round"):
        file.updates({"e": 1})


@pytest.mark.parametrize(
    "values", [np.zeros(1, np.int16), np.zeros((3, 1), np.int16), np.zeros(3, np.float32)]
)
def test_another_shape_or_type_is_refused_and_not_broadcast(values: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="expected int16"):
        UpdateFile(tmp_path / "values", COHORT, PLAN).write("a", values)
    assert not (tmp_path / "values").exists()


def test_a_file_that_lost_rows_is_told_and_not_read(tmp_path: Path) -> None:
    file = UpdateFile(tmp_path / "values", COHORT, PLAN)
    file.write("d", row(1))
    os.truncate(tmp_path / "values", 20)
    with pytest.raises(StorageError, match="20 bytes, expected 24"):
        file.updates({"d": 1})
    with pytest.raises(StorageError, match="cannot read"):
        UpdateFile(tmp_path / "other", COHORT, PLAN).updates({"d": 1})


def test_no_updates_give_no_mean(tmp_path: Path) -> None:
    with pytest.raises(RoundError, match="no update"):
        UpdateFile(tmp_path / "values", COHORT, PLAN).updates({})
    with pytest.raises(RoundError, match="no update"):
        StoredUpdates.of({})


@pytest.mark.parametrize("weight", [0, -1])
def test_a_weight_below_one_never_gets_in(weight: int) -> None:
    with pytest.raises(RoundError, match="weight"):
        StoredUpdates.of({"a": (1, row(1)), "b": (weight, row(1))})


def test_rows_out_of_order_are_refused() -> None:
    with pytest.raises(RoundError, match="ascend"):
        StoredUpdates(("b", "a"), (1, 1), (0, 1), np.zeros((2, 3), np.int16))
    with pytest.raises(RoundError, match="ascend"):
        StoredUpdates(("a", "b"), (1, 1), (1, 1), np.zeros((2, 3), np.int16))
    with pytest.raises(ShapeError, match="row 2"):
        StoredUpdates(("a", "b"), (1, 1), (0, 2), np.zeros((2, 3), np.int16))
