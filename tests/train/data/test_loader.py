from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from emberfleet.core.arrays import Float32, Int64
from emberfleet.core.errors import ConfigError, DataError, ShapeError
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.train.data.augmentation import Augmentation
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.data.loader import Batches

PREPROCESSING = Preprocessing(4, 5, 1, mean=(0.5,), std=(0.25,))
WILD = Augmentation(crop_padding=1, flip=True, shift=1, rotation_degrees=20, scale=0.2, shear=0.1, erase=0.5)


def make(labels: list[int]) -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 4, 5, 1), np.uint8)
    return Dataset(images, np.array(labels, np.int64), ("a", "b", "c"))


def same(one: list[tuple[Float32, Int64]], two: list[tuple[Float32, Int64]]) -> bool:
    return len(one) == len(two) and all(
        np.array_equal(x1, x2) and np.array_equal(y1, y2) for (x1, y1), (x2, y2) in zip(one, two, strict=True)
    )


def test_every_batch_is_full_and_every_image_comes() -> None:
    batches = Batches(make([0, 1, 2] * 3 + [0]), PREPROCESSING, batch=4)
    assert batches.steps_per_epoch == 3
    assert [x.shape for x, _ in batches.epoch(0)] == [(4, 4, 5, 1)] * 3
    order = batches.order(0)
    assert sorted(order[:10].tolist()) == list(range(10))
    assert order[10:].tolist() == order[:2].tolist()


def test_a_batch_larger_than_the_data_set_repeats_it() -> None:
    x, labels = next(Batches(make([0, 1, 2]), PREPROCESSING, batch=7).epoch(0))
    assert x.shape == (7, 4, 5, 1)
    assert np.bincount(labels).min() == 2


def test_images_are_preprocessed_and_keep_their_labels() -> None:
    dataset = make([0, 1, 2, 1])
    batches = Batches(dataset, PREPROCESSING, batch=4, seed=3)
    x, labels = next(batches.epoch(5))
    order = batches.order(5)
    assert np.array_equal(x, PREPROCESSING.apply(dataset.images[order]))
    assert np.array_equal(labels, dataset.labels[order])


def test_an_epoch_can_be_made_again_from_seed_and_number() -> None:
    dataset = make([0, 1, 2] * 5)
    first = Batches(dataset, PREPROCESSING, 4, WILD, seed=9)
    stream = list(islice(first, 4 * 3))
    again = Batches(dataset, PREPROCESSING, 4, WILD, seed=9)
    assert same(stream[8:], list(again.epoch(2)))
    assert same(stream[6:8], list(again.epoch(1, first_step=2)))
    assert not same(stream[8:], list(Batches(dataset, PREPROCESSING, 4, WILD, seed=10).epoch(2)))
    assert not same(stream[8:], list(again.epoch(3)))


def test_balanced_batches_draw_classes_equally_often() -> None:
    labels = [0] * 50 + [1] * 7 + [2] * 3
    batches = Batches(make(labels), PREPROCESSING, batch=10, balance=True)
    order = batches.order(0)
    assert np.bincount(np.array(labels)[order]).tolist() == [20, 20, 20]
    counts = np.bincount(order, minlength=60)
    assert counts[:50].max() == 1
    assert set(counts[50:57]) == {2, 3}
    assert set(counts[57:]) == {6, 7}


def test_balancing_leaves_out_classes_without_images() -> None:
    batches = Batches(make([0] * 5 + [2]), PREPROCESSING, batch=6, balance=True)
    assert np.bincount(make([0] * 5 + [2]).labels[batches.order(1)]).tolist() == [3, 0, 3]


def test_augmentation_pads_with_black_as_the_network_sees_it() -> None:
    dataset = Dataset(np.zeros((1, 4, 5, 1), np.uint8), np.zeros(1, np.int64), ("a", "b"))
    x, _ = next(Batches(dataset, PREPROCESSING, 8, WILD).epoch(0))
    assert np.array_equal(x, np.full((8, 4, 5, 1), -2, np.float32))


def test_codes_come_with_all_their_positions() -> None:
    dataset = Dataset(np.zeros((3, 4, 5, 1), np.uint8), np.zeros((3, 6), np.int64), ("a", "b"))
    _, labels = next(Batches(dataset, PREPROCESSING, 2).epoch(0))
    assert labels.shape == (2, 6)
    with pytest.raises(ConfigError, match="balanced"):
        Batches(dataset, PREPROCESSING, 2, balance=True)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        Batches(make([0]).subset([]), PREPROCESSING, 2)
    with pytest.raises(ShapeError, match="preprocessing takes"):
        Batches(make([0]), Preprocessing(4, 4, 1), 2)
    with pytest.raises(ConfigError, match="batch 0"):
        Batches(make([0]), PREPROCESSING, 0)
