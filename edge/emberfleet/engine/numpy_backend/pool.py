"""Max and average pooling on ``(N, H, W, C)`` images.

Max pooling remembers, per output, which tap won: the code is ``taps - place`` in one byte (two
for kernels beyond 255 pixels), so that the first maximum has the largest code and, of equal
values, takes the gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emberfleet.core.arrays import Array, Real
from emberfleet.engine.numpy_backend.conv import Window

Index = NDArray[np.intp]
Taps = list[tuple[tuple[slice, slice], tuple[slice, slice]]]


def code_type(window: Window) -> np.dtype[Any]:
    """The integer type that holds one code per tap."""
    return np.dtype(np.uint8 if window.kernel[0] * window.kernel[1] <= 255 else np.uint32)


def max_pool_forward(x: Real, taps: Taps, out: Real) -> None:
    """Largest value of each window; padding never wins."""
    out.fill(-np.inf)
    for source, target in taps:
        place = out[:, target[0], target[1]]
        np.maximum(place, x[:, source[0], source[1]], out=place)


def max_pool_winners(x: Real, y: Real, taps: Taps, codes: Array, work: Array) -> None:
    """Which tap each maximum came from, as codes; `work` is of the codes' shape and type."""
    codes.fill(0)
    for place, (source, target) in enumerate(taps):
        here = codes[:, target[0], target[1]]
        found = work[:, target[0], target[1]]
        np.equal(x[:, source[0], source[1]], y[:, target[0], target[1]], out=found, casting="unsafe")
        np.multiply(found, codes.dtype.type(len(taps) - place), out=found)
        np.maximum(here, found, out=here)


def winner_places(window: Window, shape: tuple[int, ...]) -> tuple[Index, Index]:
    """Where the winners stand in an ``(H, W, C)`` image laid flat: by output, plus by code.

    Returns:
        ``(H', W', C)`` the place of each output's first tap (outside the image where that falls on
        padding), and one step for each code.
    """
    h, w, c = shape
    _, rows, columns = window.output((1, h, w, c))
    (down, across), (top, left) = window.stride, window.padding[:2]
    row = (np.arange(rows) * down - top) * w * c
    column = (np.arange(columns) * across - left) * c
    first = row[:, None, None] + column[:, None] + np.arange(c)
    i, j = np.indices(window.kernel).reshape(2, -1)
    return first.astype(np.intp), np.append(0, ((i * w + j) * c)[::-1]).astype(np.intp)


def max_pool_backward(dy: Real, codes: Array, places: tuple[Index, Index], dx: Real, add: bool) -> None:
    """Give each output's gradient to the pixel that won, written or added; `places` by `winner_places`.

    `bincount` adds in float64, and one image at a time stays in the cache. A window with a NaN has no
    winner: its gradient may go to any pixel of the image.
    """
    first, steps = places
    for codes_n, dy_n, dx_n in zip(codes, dy, dx, strict=True):
        index = steps[codes_n]
        index += first
        np.maximum(index, 0, out=index)
        total = np.bincount(index.reshape(-1), dy_n.reshape(-1), dx_n.size).reshape(dx_n.shape)
        if add:
            dx_n += total
        else:
            dx_n[...] = total


def pixels_inside(window: Window, shape: tuple[int, ...]) -> Real:
    """How many pixels of an ``(H, W, C)`` image each window holds, padding left out: ``(H', W', 1)``."""
    _, rows, columns = window.output((1, *shape))
    counts = np.zeros((rows, columns, 1), np.float32)
    for _, target in window.taps((shape[0], shape[1])):
        counts[target] += 1
    return counts


def average_pool_forward(x: Real, taps: Taps, counts: Real, out: Real) -> None:
    """Mean of each window; `counts` by `pixels_inside`."""
    out.fill(0)
    for source, target in taps:
        place = out[:, target[0], target[1]]
        place += x[:, source[0], source[1]]
    np.divide(out, counts, out=out)


def average_pool_backward(dy: Real, taps: Taps, counts: Real, dx: Real, add: bool) -> None:
    """Give each pixel its share of the gradients of the windows that hold it; `dy` is used up."""
    np.divide(dy, counts, out=dy)
    if not add:
        dx.fill(0)
    for source, target in taps:
        place = dx[:, source[0], source[1]]
        place += dy[:, target[0], target[1]]


def global_average_pool_forward(x: Real, out: Real) -> None:
    """Mean over h and w: ``(N, H, W, C)`` to ``(N, C)``."""
    np.mean(x, axis=(1, 2), out=out)


def global_average_pool_backward(dy: Real, dx: Real, add: bool) -> None:
    """``dx[n,h,w,c] = dy[n,c] / (H*W)``, written or added."""
    share = (dy / (dx.shape[1] * dx.shape[2]))[:, None, None, :]
    if add:
        dx += share
    else:
        np.copyto(dx, share)
