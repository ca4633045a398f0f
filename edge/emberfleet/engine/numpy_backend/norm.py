"""Batch normalisation per channel, over rows ``(M, C)`` where M counts n, h and w.

Rows may hold several pixels, ``(R, K*C)``: numpy is up to twice as fast on long rows.

``y = gamma * (x - mean) / sqrt(variance + epsilon) + beta``. With the batch's own statistics::

    dbeta = sum dy        dgamma = sum dy * xhat        xhat = (x - mean) / sqrt(variance + epsilon)
    dx = gamma / sqrt(variance + epsilon) * (dy - dbeta / M - xhat * dgamma / M)

Source: Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from emberfleet.core.arrays import Real

BLOCK = 1 << 16
"""Values of each of two arrays that several passes go over while they are in the cache."""


def channel_sums(rows: Real, channels: int, ones: Real) -> Real:
    """Sum over all pixels, ``(C,)``, as a product with ones: BLAS adds several times as fast as `sum`."""
    return cast("Real", np.matmul(ones, rows).reshape(-1, channels).sum(axis=0))


def channel_dots(a: Real, b: Real, channels: int) -> Real:
    """Sum over all pixels of ``a * b``, ``(C,)``."""
    return cast("Real", np.einsum("ij,ij->j", a, b).reshape(-1, channels).sum(axis=0))


def repeat(values: Real, rows: Real) -> Real:
    """One value per channel, ``(C,)``, for each pixel of a row: ``(K*C,)``."""
    return np.tile(values, rows.shape[1] // len(values))


def centre(x: Real, channels: int, ones: Real, out: Real) -> tuple[Real, Real]:
    """Write ``x - mean`` to `out` (which may be `x`); returns the batch's mean and variance.

    The variance comes from the centred values: the mean of squares minus the squared mean would
    lose the digits that the mean holds.
    """
    count = x.size // channels
    mean = channel_sums(x, channels, ones) / count
    np.subtract(x, repeat(mean, x), out=out)
    variance = channel_dots(out, out, channels) / count
    return mean, variance


def scale_and_shift(x: Real, factor: Real, offset: Real, out: Real) -> None:
    """``out = x * factor + offset`` per channel; `out` may be `x`."""
    np.multiply(x, repeat(factor, x), out=out)
    out += repeat(offset, x)


def batch_norm_backward(
    centred: Real, dy: Real, gamma: Real, inverse: Real, ones: Real, dx: bool
) -> tuple[Real, Real]:
    """Gradients for batch statistics; with `dx`, `dy` becomes the input's gradient in place.

    Args:
        centred: ``(R, K*C)`` x minus its mean; used up when `dx` is asked for.
        dy: ``(R, K*C)`` gradient of the output.
        gamma: ``(C,)``.
        inverse: ``(C,)`` ``1 / sqrt(variance + epsilon)``.
        ones: ``(R,)`` ones.
        dx: Whether the input's gradient is wanted.

    Returns:
        ``(dgamma, dbeta)``.
    """
    channels = len(gamma)
    dbeta = channel_sums(dy, channels, ones)
    dgamma = channel_dots(dy, centred, channels) * inverse
    if dx:
        m = dy.size // channels
        k = gamma * inverse
        factor, slope, offset = (
            repeat(values, dy) for values in (k, -k * inverse * dgamma / m, -k * dbeta / m)
        )
        step = max(1, BLOCK // dy.shape[1])
        for start in range(0, len(dy), step):
            dy_part, part = dy[start : start + step], centred[start : start + step]
            dy_part *= factor
            part *= slope
            part += offset
            dy_part += part
    return dgamma, dbeta
