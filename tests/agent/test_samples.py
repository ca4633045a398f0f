"""The sample store: kept on the device, split by content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emberfleet.agent.samples import SampleStore
from emberfleet.core.errors import DataError


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 1), np.uint8)


def labels(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64) % 10


def test_samples_come_back_split_and_complete(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "samples")
    assert store.add(images(200), labels(200)) == 200
    found = store.load()
    assert len(found) + len(found.held_labels) == len(store) == 200
    assert 20 <= len(found.held_labels) <= 60
    assert found.images.dtype == np.uint8
    assert found.labels.dtype == np.int64


def test_every_image_keeps_its_label(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    pixels = images(50)
    store.add(pixels, labels(50))
    expected = {image.tobytes(): label for image, label in zip(pixels, labels(50), strict=True)}
    found = store.load()
    for part, named in ((found.images, found.labels), (found.held_images, found.held_labels)):
        assert all(expected[image.tobytes()] == label for image, label in zip(part, named, strict=True))


def test_what_is_held_out_stays_held_out_when_more_comes(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    store.add(images(100), labels(100))
    before = {image.tobytes() for image in store.load().held_images}
    store.add(images(100, seed=1), labels(100))
    after = store.load()
    assert before <= {image.tobytes() for image in after.held_images}
    assert not before & {image.tobytes() for image in after.images}


def test_the_same_batch_again_changes_nothing(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    for _ in range(3):
        store.add(images(5), labels(5))
    assert len(store) == 5


def test_one_sample_is_trained_on_and_two_are_split(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    store.add(images(1), labels(1))
    assert (len(store.load()), len(store.load().held_labels)) == (1, 0)
    store.add(images(1, seed=5), labels(1))
    assert len(store.load().images) == 1


def test_labels_may_be_one_per_position(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    store.add(images(6), np.zeros((6, 14), np.int64))
    assert store.load().labels.shape[1:] == (14,)


def test_samples_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "samples")
    store.add(images(1), labels(1))
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "samples").iterdir()] == [0o600]


@pytest.mark.parametrize(
    ("bad_images", "bad_labels"),
    [
        (images(2).astype(np.float32), labels(2)),
        (images(2)[0], labels(2)),
        (images(0), labels(0)),
        (images(2), labels(3)),
        (images(2), labels(2).astype(np.int32)),
        (images(2), -labels(2)),
    ],
)
def test_samples_of_the_wrong_kind_are_refused(
    tmp_path: Path, bad_images: np.ndarray, bad_labels: np.ndarray
) -> None:
    with pytest.raises(DataError):
        SampleStore(tmp_path).add(bad_images, bad_labels)


def test_another_image_size_is_refused(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    store.add(images(2), labels(2))
    with pytest.raises(DataError, match="images of"):
        store.add(np.zeros((1, 5, 4, 1), np.uint8), labels(1))


def test_an_empty_store_and_a_damaged_file_say_so(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    with pytest.raises(DataError, match="no samples"):
        store.load()
    (tmp_path / "x.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match="not a file of samples"):
        store.load()
