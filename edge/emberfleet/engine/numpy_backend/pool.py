"""Max pooling and global average pooling on ``(N, H, W, C)`` images.

Max pooling remembers, per output, which tap won: the code is ``taps - place`` in one byte (two
for kernels beyond 255 pixels), so that the first maximum has the largest code and, of equal
values, takes the gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from emberfleet.core.arrays import Array, Real
from emberfleet.engine.numpy_backend.conv import Window

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


def max_pool_backward(dy: Real, codes: Array, taps: Taps, dx: Real, work: Real) -> None:
    """Add each output's gradient to the pixel that won; `work` is of the shape of `dy`."""
    for place, (source, target) in enumerate(taps):
        share = work[:, target[0], target[1]]
        won = codes[:, target[0], target[1]] == len(taps) - place
        np.multiply(dy[:, target[0], target[1]], won, out=share)
        view = dx[:, source[0], source[1]]
        view += share


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
