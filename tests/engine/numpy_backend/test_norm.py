from __future__ import annotations

import numpy as np
import pytest

from emberfleet.core.arrays import Float64
from emberfleet.engine.numpy_backend.norm import batch_norm_backward, centre, scale_and_shift
from tests.engine.tolerance import assert_close, tolerance

SHAPES = [(2, 1), (7, 3), (31, 5), (640, 17)]


def plain(x: Float64, gamma: Float64, beta: Float64) -> Float64:
    """One channel after the other, by the formula."""
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        mean = sum(x[:, c]) / len(x)
        variance = sum((x[:, c] - mean) ** 2) / len(x)
        y[:, c] = gamma[c] * (x[:, c] - mean) / np.sqrt(variance + 1e-5) + beta[c]
    return y


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_forward_is_that_of_the_formula_even_far_from_zero(shape: tuple[int, int], offset: float) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=shape) + offset).astype(np.float32)
    gamma, beta = rng.normal(size=(2, shape[1])).astype(np.float32)
    out, ones = np.empty_like(x), np.ones(len(x), np.float32)
    _, variance = centre(x, shape[1], ones, out)
    scale_and_shift(out, gamma / np.sqrt(variance + np.float32(1e-5)), beta, out)
    expected = plain(x.astype(np.float64), gamma, beta)
    digits_lost = float(np.abs(x).max() / np.sqrt(variance.min() + 1e-5))
    allowed = tolerance(len(x), np.float32) * (1.0 + digits_lost) * float(np.abs(expected).max())
    assert np.abs(out - expected).max() <= allowed


@pytest.mark.parametrize("shape", SHAPES)
def test_backward_is_the_central_difference(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    x, dy = rng.normal(size=shape), rng.normal(size=shape)
    gamma, beta = rng.normal(size=(2, shape[1]))
    centred, ones, dx = np.empty_like(x), np.ones(len(x)), dy.copy()
    _, variance = centre(x, shape[1], ones, centred)
    inverse = 1.0 / np.sqrt(variance + 1e-5)
    dgamma, dbeta = batch_norm_backward(centred, dx, gamma, inverse, ones, dx=True)

    def difference(array: Float64, place: tuple[int, ...]) -> float:
        step, kept, sides = 1e-6, array[place], []
        for sign in (1.0, -1.0):
            array[place] = kept + sign * step
            sides.append(float((plain(x, gamma, beta) * dy).sum()))
        array[place] = kept
        return (sides[0] - sides[1]) / (2.0 * step)

    for c in range(min(2, shape[1])):
        assert dgamma[c] == pytest.approx(difference(gamma, (c,)), abs=1e-6)
        assert dbeta[c] == pytest.approx(difference(beta, (c,)), abs=1e-6)
        for row in range(2):
            assert dx[row, c] == pytest.approx(difference(x, (row, c)), abs=1e-6)


@pytest.mark.parametrize("pixels", [2, 40, 1280])
def test_rows_of_several_pixels_give_what_rows_of_one_give(pixels: int) -> None:
    rng = np.random.default_rng(2)
    x, dy = rng.normal(size=(2, 1280, 130)).astype(np.float32)
    gamma, beta = rng.normal(size=(2, 130)).astype(np.float32)
    found = []
    for joined in (1, pixels):
        shape = (len(x) // joined, joined * 130)
        out, dx, ones = x.reshape(shape).copy(), dy.reshape(shape).copy(), np.ones(shape[0], np.float32)
        y = np.empty_like(out)
        mean, variance = centre(out, 130, ones, out)
        scale_and_shift(out, gamma, beta, y)
        dgamma, dbeta = batch_norm_backward(out, dx, gamma, variance**-0.5, ones, dx=True)
        found.append((mean, variance, y, dgamma, dbeta, dx))
    for short, long in zip(*found, strict=True):
        assert_close(long.reshape(short.shape), short.astype(np.float64), 2 * len(x))
