from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from emberfleet.core.arrays import Float64
from emberfleet.core.nodes import Padding
from emberfleet.engine.numpy_backend import depthwise
from emberfleet.engine.numpy_backend.conv import Window
from emberfleet.engine.numpy_backend.depthwise import (
    Bands,
    depthwise_backward_input,
    depthwise_backward_weight,
    depthwise_conv2d,
    weight_rows,
)

# (N, H, W, C), multiplier, window: one pixel, primes, stride beyond the window, padding beyond it.
CASES = [
    ((1, 1, 1, 1), 1, Window()),
    ((1, 1, 1, 2), 3, Window((3, 3), (1, 1), (1, 1, 1, 1))),
    ((3, 7, 5, 1), 1, Window((3, 3), (1, 1), (1, 1, 1, 1))),
    ((2, 11, 13, 5), 1, Window((3, 3), (2, 2), (0, 0, 1, 1))),
    ((2, 7, 9, 2), 2, Window((2, 3), (4, 5), (1, 0, 0, 2))),
    ((2, 4, 4, 3), 1, Window((2, 2), (1, 1), (5, 0, 0, 5))),
    ((2, 4, 6, 3), 2, Window((4, 6))),
]


def plain_loop(x: Float64, weight: Float64, dy: Float64, window: Window) -> tuple[Float64, Float64, Float64]:
    """Output, weight gradient and input gradient, one product at a time."""
    y, dw, dx = np.zeros_like(dy), np.zeros_like(weight), np.zeros_like(x)
    copies = len(weight) // x.shape[3]
    for n, h, w, o in np.ndindex(*dy.shape):
        for i, j in np.ndindex(*window.kernel):
            p = h * window.stride[0] + i - window.padding[0]
            q = w * window.stride[1] + j - window.padding[1]
            if 0 <= p < x.shape[1] and 0 <= q < x.shape[2]:
                y[n, h, w, o] += x[n, p, q, o // copies] * weight[o, i, j, 0]
                dw[o, i, j, 0] += dy[n, h, w, o] * x[n, p, q, o // copies]
                dx[n, p, q, o // copies] += dy[n, h, w, o] * weight[o, i, j, 0]
    return y, dw, dx


def assert_is_the_plain_loop(shape: tuple[int, ...], multiplier: int, window: Window) -> None:
    """On small whole numbers, whose sums float32 holds exactly."""
    rng = np.random.default_rng(3)
    channels = shape[3] * multiplier
    x = rng.integers(-4, 5, shape).astype(np.float32)
    weight = rng.integers(-4, 5, (channels, *window.kernel, 1)).astype(np.float32)
    dy = rng.integers(-4, 5, (*window.output(shape), channels)).astype(np.float32)
    y, dw, dx = plain_loop(x.astype(np.float64), weight.astype(np.float64), dy.astype(np.float64), window)
    np.testing.assert_array_equal(depthwise_conv2d(x, weight, window), y)
    image = np.repeat(x, multiplier, axis=3)
    bands = Bands.plan(window, image.shape)
    work = np.full(bands.values, np.nan, np.float32)
    found = np.full((channels, window.kernel[0] * window.kernel[1]), np.nan, np.float32)
    depthwise_backward_weight(image, dy, bands, found, work)
    np.testing.assert_array_equal(found.reshape(dw.shape), dw)
    added = np.full(image.shape, 1000.0, np.float32)
    depthwise_backward_input(dy, weight_rows(weight, dy.shape[2]), bands, added, work)
    np.testing.assert_array_equal((added - 1000.0).reshape(*shape, multiplier).sum(axis=4), dx)


@pytest.mark.parametrize("band_values", [1, 40, depthwise.BAND_VALUES])
@pytest.mark.parametrize(("shape", "multiplier", "window"), CASES)
def test_forward_and_backward_are_those_of_the_plain_loop(
    shape: tuple[int, ...],
    multiplier: int,
    window: Window,
    band_values: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(depthwise, "BAND_VALUES", band_values)
    assert_is_the_plain_loop(shape, multiplier, window)


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(1, 3)),
    multiplier=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
)
def test_every_shape_is_that_of_the_plain_loop(
    shape: tuple[int, ...],
    multiplier: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: Padding,
) -> None:
    top, left, bottom, right = padding
    assume(shape[1] + top + bottom >= kernel[0] and shape[2] + left + right >= kernel[1])
    assert_is_the_plain_loop(shape, multiplier, Window(kernel, stride, padding))


def test_bands_cover_every_row_once_and_hold_to_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depthwise, "BAND_VALUES", 100)
    bands = Bands.plan(Window((3, 3), (1, 1), (1, 1, 1, 1)), (5, 11, 6, 4))
    assert (bands.images, bands.values) == (1, 4 * 6 * 4)
    assert [(band.rows.start, band.rows.stop) for band in bands.bands] == [(0, 4), (4, 8), (8, 11)]
    small = Bands.plan(Window(), (5, 2, 2, 6))
    assert [images for images, _ in small.over(5)] == [slice(0, 4), slice(4, 8)]
