from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.arrays import Array, Int64
from emberfleet.core.errors import DataError, ShapeError
from emberfleet.train.data.dataset import Dataset


def make(labels: list[int] | Int64, classes: int = 3, writers: list[int] | None = None) -> Dataset:
    values = np.array(labels, np.int64)
    images = np.arange(len(values), dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
    owners = None if writers is None else np.array(writers, np.int64)
    return Dataset(images, values, tuple(f"class {k}" for k in range(classes)), owners)


def test_a_label_outside_the_classes_is_named() -> None:
    with pytest.raises(DataError, match="label 3 of image 1 is outside the 3 classes"):
        make([0, 3, 1])
    with pytest.raises(DataError, match="label -1 of image 2"):
        make([0, 1, -1])


def test_a_code_with_a_label_outside_the_classes_is_refused() -> None:
    with pytest.raises(DataError, match="label 7 of image 1"):
        make(np.array([[0, 1], [2, 7]]))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 4, 4, 2), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 4, 4, 1), np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int32)),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros((2, 1, 1), np.int64)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(images: Array, labels: Array) -> None:
    with pytest.raises(ShapeError):
        Dataset(images, labels, ("a", "b"))


def test_writers_must_match_the_images() -> None:
    with pytest.raises(ShapeError, match="writers"):
        make([0, 1], writers=[7])


def test_two_classes_of_one_name_are_refused() -> None:
    with pytest.raises(DataError, match="same name"):
        Dataset(np.zeros((1, 2, 2, 1), np.uint8), np.zeros(1, np.int64), ("a", "a"))


def test_subset_takes_indices_masks_and_nothing() -> None:
    dataset = make([0, 1, 2, 1], writers=[5, 6, 7, 8])
    chosen = dataset.subset([3, 0])
    assert chosen.labels.tolist() == [1, 0]
    assert chosen.images[:, 0, 0, 0].tolist() == [3, 0]
    assert chosen.writers is not None
    assert chosen.writers.tolist() == [8, 5]
    assert dataset.subset(dataset.labels == 1).labels.tolist() == [1, 1]
    assert len(dataset.subset([])) == 0


def test_class_counts_cover_classes_that_never_occur() -> None:
    assert make([0, 2, 2]).class_counts().tolist() == [1, 0, 2]


@given(
    labels=st.lists(st.integers(0, 3), max_size=60),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_a_split_loses_nothing_and_keeps_shares(labels: list[int], fraction: float, seed: int) -> None:
    dataset = make(labels, classes=4)
    rest, aside = dataset.split(fraction, seed)
    seen = np.concatenate([rest.images[:, 0, 0, 0], aside.images[:, 0, 0, 0]])
    assert sorted(seen.tolist()) == list(range(len(labels)))
    assert len(aside) == round(fraction * len(labels))
    assert np.all(np.abs(aside.class_counts() - fraction * dataset.class_counts()) < 1)


def test_a_split_depends_on_its_seed_alone() -> None:
    dataset = make([0, 1] * 50)
    first, again, other = (dataset.split(0.3, seed)[1].images for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_codes_can_be_split() -> None:
    rest, aside = make(np.zeros((10, 3), np.int64)).split(0.2, seed=0)
    assert (len(rest), len(aside)) == (8, 2)
    assert aside.positions == 3


def test_a_fraction_over_one_is_refused() -> None:
    with pytest.raises(DataError, match=r"1.5"):
        make([0]).split(1.5, 0)
