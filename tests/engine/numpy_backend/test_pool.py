from __future__ import annotations

import numpy as np
import pytest

from emberfleet.core.arrays import Float64
from emberfleet.core.nodes import Padding
from emberfleet.engine.numpy_backend.conv import Window
from emberfleet.engine.numpy_backend.pool import (
    average_pool_backward,
    average_pool_forward,
    code_type,
    global_average_pool_backward,
    global_average_pool_forward,
    max_pool_backward,
    max_pool_forward,
    max_pool_winners,
    pixels_inside,
    winner_places,
)
from tests.engine.tolerance import assert_close

CASES = [
    ((1, 1, 1, 1), Window()),
    ((2, 7, 7, 3), Window((3, 3), (2, 2))),
    ((2, 8, 8, 1), Window((3, 3), (2, 2), (0, 0, 1, 1))),
    ((2, 5, 7, 2), Window((2, 3), (3, 4), (1, 2, 0, 1))),
    ((1, 3, 3, 2), Window((3, 3), (1, 1), (2, 2, 2, 2))),
    ((1, 17, 17, 1), Window((17, 17), (1, 1), (8, 8, 8, 8))),
]


def plain_loop(x: Float64, dy: Float64, window: Window) -> tuple[Float64, Float64]:
    """Maximum and input gradient, window by window; the first maximum in reading order wins."""
    y, dx = np.empty_like(dy), np.zeros_like(x)
    for n, h, w, c in np.ndindex(*dy.shape):
        best: tuple[float, int, int] | None = None
        for i, j in np.ndindex(*window.kernel):
            p = h * window.stride[0] + i - window.padding[0]
            q = w * window.stride[1] + j - window.padding[1]
            inside = 0 <= p < x.shape[1] and 0 <= q < x.shape[2]
            if inside and (best is None or x[n, p, q, c] > best[0]):
                best = (float(x[n, p, q, c]), p, q)
        assert best is not None
        y[n, h, w, c] = best[0]
        dx[n, best[1], best[2], c] += dy[n, h, w, c]
    return y, dx


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("shape", "window"), CASES)
def test_max_pooling_is_that_of_the_plain_loop(shape: tuple[int, ...], window: Window, ties: bool) -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(-2, 1, shape).astype(np.float64) if ties else rng.normal(size=shape) - 3.0
    out_shape = (*window.output(shape), shape[3])
    dy = rng.normal(size=out_shape)
    expected = plain_loop(x, dy, window)
    taps = window.taps((shape[1], shape[2]))
    y, dx = np.empty(out_shape), np.zeros(shape)
    codes = np.empty(out_shape, code_type(window))
    max_pool_forward(x, taps, y)
    np.testing.assert_array_equal(y, expected[0])
    max_pool_winners(x, y, taps, codes, np.empty_like(codes))
    places = winner_places(window, shape[1:])
    max_pool_backward(dy, codes, places, dx, add=True)
    assert_close(dx, expected[1], window.kernel[0] * window.kernel[1], np.float64)
    dx[...] = 7.0
    max_pool_backward(dy, codes, places, dx, add=False)
    assert_close(dx, expected[1], window.kernel[0] * window.kernel[1], np.float64)


@pytest.mark.parametrize("padding", [(0, 0, 1, 1), (2, 2, 2, 2)])
def test_a_nan_leaves_the_gradient_of_other_images_alone(padding: Padding) -> None:
    shape, window = (2, 4, 4, 1), Window((3, 3), (1, 1), padding)
    x, taps = np.zeros(shape), window.taps((4, 4))
    y = np.empty((*window.output(shape), 1))
    x[0] = np.nan
    max_pool_forward(x, taps, y)
    codes = np.empty(y.shape, np.uint8)
    max_pool_winners(x, y, taps, codes, np.empty_like(codes))
    dx = np.empty(shape)
    max_pool_backward(np.ones_like(y), codes, winner_places(window, shape[1:]), dx, add=False)
    assert np.isnan(y[0]).all()
    assert dx[1].sum() == y[1].size


@pytest.mark.parametrize(("shape", "window"), CASES)
def test_average_pooling_counts_only_the_pixels_inside(shape: tuple[int, ...], window: Window) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape)
    dy = rng.normal(size=(*window.output(shape), shape[3]))
    expected, dx_expected = np.zeros_like(dy), np.zeros_like(x)
    for n, h, w, c in np.ndindex(*dy.shape):
        top, left = h * window.stride[0] - window.padding[0], w * window.stride[1] - window.padding[1]
        rows = slice(max(top, 0), top + window.kernel[0])
        columns = slice(max(left, 0), left + window.kernel[1])
        inside = x[n, rows, columns, c]
        expected[n, h, w, c] = inside.mean()
        dx_expected[n, rows, columns, c] += dy[n, h, w, c] / inside.size
    taps, counts = window.taps((shape[1], shape[2])), pixels_inside(window, shape[1:]).astype(np.float64)
    y = np.full_like(dy, np.nan)
    average_pool_forward(x, taps, counts, y)
    assert_close(y, expected, window.kernel[0] * window.kernel[1], np.float64)
    dx = np.full_like(x, np.nan)
    average_pool_backward(dy.copy(), taps, counts, dx, add=False)
    assert_close(dx, dx_expected, window.kernel[0] * window.kernel[1], np.float64)
    average_pool_backward(dy.copy(), taps, counts, dx, add=True)
    assert_close(dx, 2.0 * dx_expected, 2 * window.kernel[0] * window.kernel[1], np.float64)


def test_global_average_pooling_spreads_its_gradient_evenly() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
    y = np.empty((2, 4), np.float32)
    global_average_pool_forward(x, y)
    assert_close(y, x.astype(np.float64).sum(axis=(1, 2)) / 15, 15)
    dx = np.full_like(x, 7.0)
    global_average_pool_backward(y, dx, add=False)
    assert_close(dx, np.broadcast_to((y / 15.0)[:, None, None, :], x.shape), 1)
    twice = dx.copy()
    global_average_pool_backward(y, twice, add=True)
    assert_close(twice, 2.0 * dx.astype(np.float64), 1)
