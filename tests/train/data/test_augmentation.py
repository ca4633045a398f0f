from __future__ import annotations

import time

import numpy as np
import pytest

from emberfleet.core.arrays import Float32, Float64
from emberfleet.core.errors import ConfigError, ShapeError
from emberfleet.train.data.augmentation import Augmentation, augment, warp


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pictures(n: int = 5, h: int = 7, w: int = 9, c: int = 3) -> Float32:
    return rng(4).random((n, h, w, c), dtype=np.float32) + 1


def plain_warp(x: Float32, matrix: Float64, shift: Float64, fill: float) -> Float64:
    """One image, one pixel after the other, in float64."""
    h, w, c = x.shape
    out = np.zeros((h, w, c))
    centre = np.array([(h - 1) / 2, (w - 1) / 2])
    for i in range(h):
        for j in range(w):
            row, column = matrix @ (np.array([i, j]) - centre) + centre + shift
            top, left = int(np.floor(row)), int(np.floor(column))
            for y, x_at, weight in (
                (top, left, (1 - row + top) * (1 - column + left)),
                (top, left + 1, (1 - row + top) * (column - left)),
                (top + 1, left, (row - top) * (1 - column + left)),
                (top + 1, left + 1, (row - top) * (column - left)),
            ):
                inside = 0 <= y < h and 0 <= x_at < w
                out[i, j] += weight * (x[y, x_at].astype(np.float64) if inside else fill)
    return out


def test_everything_off_returns_the_batch_itself() -> None:
    x = pictures()
    assert augment(x, Augmentation(), rng()) is x


def test_warp_agrees_with_a_plain_loop() -> None:
    x = pictures(n=6)
    matrices = (np.eye(2) + rng(1).normal(0, 0.4, (6, 2, 2))).astype(np.float32)
    shifts = rng(2).normal(0, 2, (6, 2)).astype(np.float32)
    warped = warp(x, matrices, shifts, np.full(3, -1, np.float32))
    for n in range(6):
        expected = plain_warp(x[n], matrices[n].astype(np.float64), shifts[n].astype(np.float64), -1)
        # Neighbours differ by at most 3; positions go to 20 and are four roundings from exact.
        assert np.abs(warped[n] - expected).max() < 3 * 4 * 20 * np.finfo(np.float32).eps
    assert warped.dtype == np.float32


def test_a_warp_by_whole_pixels_moves_the_image() -> None:
    x = pictures(n=1)
    moved = warp(
        x, np.eye(2, dtype=np.float32)[None], np.array([[2, -1]], np.float32), np.zeros(3, np.float32)
    )
    assert np.array_equal(moved[0, :5, 1:], x[0, 2:, :8])
    assert not moved[0, 5:].any()
    assert not moved[0, :, 0].any()


def test_a_quarter_turn_turns_the_image() -> None:
    x = pictures(n=1, h=5, w=5)
    turn = np.array([[[0, -1], [1, 0]]], np.float32)
    turned = warp(x, turn, np.zeros((1, 2), np.float32), np.zeros(3, np.float32))
    np.testing.assert_allclose(turned[0], np.rot90(x[0], -1), atol=1e-6)


def test_a_crop_is_a_shift_of_at_most_its_padding() -> None:
    x = pictures(n=200)
    fill = np.array([7, 8, 9], np.float32)
    cropped = augment(x, Augmentation(crop_padding=2), rng(), fill)
    offsets = set()
    for before, after in zip(x, cropped, strict=True):
        padded = np.tile(fill, (11, 13, 1))
        padded[2:-2, 2:-2] = before
        found = [
            (i, j) for i in range(5) for j in range(5) if np.array_equal(after, padded[i : i + 7, j : j + 9])
        ]
        assert len(found) == 1
        offsets.add(found[0])
    assert len(offsets) == 25


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    x = pictures(n=400)
    flipped = augment(x, Augmentation(flip=True), rng())
    mirrored = [np.array_equal(after, before[:, ::-1]) for before, after in zip(x, flipped, strict=True)]
    kept = [np.array_equal(after, before) for before, after in zip(x, flipped, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 150 < sum(mirrored) < 250


def test_erasing_fills_one_rectangle_of_the_stated_area() -> None:
    x = pictures(n=300, h=20, w=20)
    settings = Augmentation(erase=0.5, erase_area=(0.1, 0.2))
    erased = augment(x, settings, rng(), np.full(3, -5, np.float32))
    hit = 0
    for before, after in zip(x, erased, strict=True):
        gone = (after == -5).all(axis=2)
        assert np.array_equal(after[~gone], before[~gone])
        if gone.any():
            hit += 1
            rows, columns = np.flatnonzero(gone.any(axis=1)), np.flatnonzero(gone.any(axis=0))
            assert gone[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            assert 0.07 <= gone.mean() <= 0.24
    assert 110 < hit < 190


def test_warps_stay_within_their_limits() -> None:
    """A dot off the centre moves by at most the shift plus what turning and scaling do to its radius."""
    x = np.zeros((500, 41, 41, 1), np.float32)
    x[:, 20, 30] = 1
    shifted = augment(x, Augmentation(shift=3), rng())
    turned = augment(x, Augmentation(rotation_degrees=30), rng())
    scaled = augment(x, Augmentation(scale=0.5), rng())
    rows, columns = np.arange(41)[:, None], np.arange(41)[None, :]

    def centroid(images: Float32) -> tuple[Float32, Float32]:
        mass = images[..., 0].sum(axis=(1, 2))
        down = (images[..., 0] * (rows - 20)).sum(axis=(1, 2)) / mass
        return down, (images[..., 0] * (columns - 20)).sum(axis=(1, 2)) / mass

    down, across = centroid(shifted)
    assert np.abs(down).max() <= 3.01
    assert np.abs(across - 10).max() <= 3.01
    assert np.abs(down).max() > 2.8
    down, across = centroid(turned)
    angles = np.rad2deg(np.arctan2(down, across))
    assert 27 < np.abs(angles).max() < 33
    assert angles.min() < -25
    assert angles.max() > 25
    _, across = centroid(scaled)
    assert 6.2 < across.min() < 7.2
    assert 14 < across.max() < 15.5


def test_the_input_is_not_changed_and_the_seed_decides() -> None:
    x = pictures()
    before = x.copy()
    settings = Augmentation(2, True, 1.5, 10, 0.1, 0.1, 0.5)
    first, again, other = (augment(x, settings, rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(x, before)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == np.float32
    assert first.shape == x.shape


def test_an_empty_batch_stays_empty() -> None:
    x = np.zeros((0, 4, 4, 1), np.float32)
    assert augment(x, Augmentation(1, True, 1, 10, 0.1, 0.1, 0.5), rng()).shape == x.shape


def test_wrong_batches_and_settings_are_refused() -> None:
    with pytest.raises(ShapeError, match="float32"):
        augment(np.zeros((1, 2, 2, 1), np.uint8), Augmentation(), rng())
    with pytest.raises(ShapeError, match="fill"):
        augment(pictures(), Augmentation(), rng(), np.zeros(1, np.float32))
    with pytest.raises(ConfigError, match="erase is 2"):
        Augmentation(erase=2)
    with pytest.raises(ConfigError, match="shift is nan"):
        Augmentation(shift=float("nan"))
    with pytest.raises(ConfigError, match="erase_area"):
        Augmentation(erase_area=(0.5, 0.1))


def test_warping_a_thousand_digits_is_fast() -> None:
    """Measured at 12 ms on a quiet core; the limit leaves room for a busy machine."""
    x = pictures(1000, 28, 28, 1)
    settings = Augmentation(shift=2, rotation_degrees=10, scale=0.1, shear=0.1)
    best = min(_seconds(x, settings) for _ in range(5))
    assert best < 0.25


def _seconds(x: Float32, settings: Augmentation) -> float:
    start = time.process_time()
    augment(x, settings, rng())
    return time.process_time() - start
