from __future__ import annotations

import numpy as np
import pytest

from emberfleet.core.arrays import Float64
from emberfleet.engine.numpy_backend.conv import (
    Window,
    conv2d_backward_bias,
    conv2d_backward_input,
    conv2d_backward_weight,
    conv2d_forward,
)
from tests.engine.tolerance import assert_close

# (N, H, W, C), O, window: 1x1 images, one channel, primes, stride beyond the window, lopsided padding.
CASES = [
    ((1, 1, 1, 1), 1, Window()),
    ((2, 5, 7, 3), 4, Window()),
    ((2, 5, 7, 3), 4, Window((1, 1), (2, 3), (0, 0, 0, 0))),
    ((1, 1, 1, 2), 3, Window((3, 3), (1, 1), (1, 1, 1, 1))),
    ((3, 7, 5, 1), 1, Window((3, 3), (1, 1), (1, 1, 1, 1))),
    ((2, 11, 13, 5), 7, Window((3, 3), (2, 2), (0, 0, 1, 1))),
    ((2, 7, 9, 2), 3, Window((2, 3), (4, 5), (1, 0, 0, 2))),
    ((2, 6, 5, 2), 3, Window((3, 2), (1, 2), (2, 0, 1, 1))),
    ((2, 4, 4, 2), 2, Window((2, 2), (1, 1), (3, 0, 0, 3))),
    ((2, 4, 6, 3), 5, Window((4, 6))),
]


def arrays(shape: tuple[int, ...], o: int, window: Window) -> tuple[Float64, Float64, Float64, Float64]:
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(o, *window.kernel, shape[3]))
    return rng.normal(size=shape), weight, rng.normal(size=o), rng.normal(size=(*window.output(shape), o))


def plain_loop(
    x: Float64, weight: Float64, bias: Float64, dy: Float64, window: Window
) -> tuple[Float64, Float64, Float64, Float64]:
    """Output, weight gradient, bias gradient and input gradient, one product at a time."""
    (o, kh, kw, c), (_, h, w, _) = weight.shape, x.shape
    y = np.broadcast_to(bias, dy.shape).copy()
    dw, db, dx = np.zeros_like(weight), np.zeros_like(bias), np.zeros_like(x)
    for place in np.ndindex(*dy.shape[:3]):
        db += dy[place]
        for i, j in np.ndindex(kh, kw):
            p = place[1] * window.stride[0] + i - window.padding[0]
            q = place[2] * window.stride[1] + j - window.padding[1]
            if 0 <= p < h and 0 <= q < w:
                for k in range(o):
                    for d in range(c):
                        y[place][k] += x[place[0], p, q, d] * weight[k, i, j, d]
                        dw[k, i, j, d] += dy[place][k] * x[place[0], p, q, d]
                        dx[place[0], p, q, d] += dy[place][k] * weight[k, i, j, d]
    return y, dw, db, dx


@pytest.mark.parametrize(("shape", "o", "window"), CASES)
def test_forward_and_backward_are_those_of_the_plain_loop(
    shape: tuple[int, ...], o: int, window: Window
) -> None:
    x, weight, bias, dy = (a.astype(np.float32) for a in arrays(shape, o, window))
    wide = [a.astype(np.float64) for a in (x, weight, bias, dy)]
    y, dw, db, dx = plain_loop(wide[0], wide[1], wide[2], wide[3], window)
    taps = window.kernel[0] * window.kernel[1]
    assert_close(conv2d_forward(x, weight, bias, window), y, taps * shape[3])
    count = dy.size // o
    assert_close(conv2d_backward_weight(x, dy, window), dw, count)
    assert_close(conv2d_backward_bias(dy), db, count)
    assert_close(conv2d_backward_input(dy, weight, window, shape), dx, taps * o)
