"""Depthwise convolution: for each place in the kernel, the image shifted times one weight per channel.

``y[n,h,w,o] = sum over i,j of x[n, h*s+i-top, w*s+j-left, o] * weight[o,i,j]``

All passes go over the images in bands so small that what the places of the kernel add up stays in
the cache. With a multiplier above 1 the caller repeats each input channel beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from emberfleet.core.arrays import Array, Real
from emberfleet.engine.numpy_backend.conv import Window

BAND_VALUES = 1 << 16
"""Most values of a band, if it holds more than one line of one image."""


@dataclass(frozen=True, slots=True)
class Tap:
    """One place in the kernel: the input pixels it meets, and at which outputs; as `Window.taps` has them."""

    place: int
    source: tuple[slice, slice]
    target: tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class Band:
    """Some rows of the output, and the taps that meet a pixel there."""

    rows: slice
    taps: tuple[Tap, ...]
    covered: bool
    """Whether the first tap meets a pixel at every output."""


@dataclass(frozen=True, slots=True)
class Bands:
    """How a window goes over images: so many at a time, the same bands in each."""

    images: int
    bands: tuple[Band, ...]
    values: int
    """Most values of the output within a band."""

    @staticmethod
    def plan(window: Window, shape: tuple[int, ...]) -> Bands:
        """Bands for ``(N, H, W, C)`` images."""
        n, h, w, c = shape
        _, rows, columns = window.output(shape)
        height = min(rows, max(1, BAND_VALUES // (columns * c)))
        images = max(1, min(n, BAND_VALUES // (rows * columns * c)))
        taps = window.taps((h, w))
        bands = tuple(
            _band(taps, slice(start, min(start + height, rows)), columns, window.stride[0])
            for start in range(0, rows, height)
        )
        return Bands(images, bands, images * height * columns * c)

    def over(self, count: int) -> Iterator[tuple[slice, Band]]:
        """Images and rows, one after the other."""
        for start in range(0, count, self.images):
            for band in self.bands:
                yield slice(start, start + self.images), band


def _band(
    taps: list[tuple[tuple[slice, slice], tuple[slice, slice]]], rows: slice, columns: int, stride: int
) -> Band:
    found: list[Tap] = []
    for place, (source, target) in enumerate(taps):
        first, stop = max(target[0].start, rows.start), min(target[0].stop, rows.stop)
        if first < stop and target[1].start < target[1].stop:
            start = source[0].start + (first - target[0].start) * stride
            lines = slice(start, start + (stop - first - 1) * stride + 1, stride)
            found.append(Tap(place, (lines, source[1]), (slice(first, stop), target[1])))
    whole = (rows, slice(0, columns))
    found.sort(key=lambda tap: tap.target != whole)
    return Band(rows, tuple(found), bool(found) and found[0].target == whole)


def weight_rows(weight: Real, columns: int, out: Real | None = None) -> Real:
    """``(O, KH, KW, 1)`` weights once for each column: ``(KH*KW, columns, O)``.

    numpy's loops run along a whole line of the image then, not along one pixel's channels.
    """
    places = weight.shape[1] * weight.shape[2]
    rows: Real = np.empty((places, columns, len(weight)), weight.dtype) if out is None else out
    np.copyto(rows, weight.reshape(len(weight), places).T[:, None])
    return rows


def depthwise_forward(x: Real, rows: Real, bands: Bands, out: Real, work: Real) -> None:
    """Write the output without a bias.

    Args:
        x: ``(N, H, W, O)``.
        rows: Weights as `weight_rows` gives them.
        bands: Of the window on `x`.
        out: ``(N, H', W', O)``.
        work: Scratch of at least `bands.values`, contiguous.
    """
    for images, band in bands.over(len(x)):
        if not band.covered:
            out[images, band.rows] = 0
        for index, tap in enumerate(band.taps):
            source = x[images, tap.source[0], tap.source[1]]
            target = out[images, tap.target[0], tap.target[1]]
            weights = rows[tap.place, : target.shape[2]]
            if index == 0 and band.covered:
                np.multiply(source, weights, out=target)
            else:
                target += np.multiply(source, weights, out=_like(target, work))


def depthwise_conv2d(x: Real, weight: Real, window: Window) -> Real:
    """``(N, H, W, C)`` images with ``(O, KH, KW, 1)`` weights, O a multiple of C: ``(N, H', W', O)``."""
    copies = len(weight) // x.shape[3]
    image = x if copies == 1 else np.repeat(x, copies, axis=3)
    bands = Bands.plan(window, image.shape)
    out: Real = np.empty((*window.output(x.shape), len(weight)), x.dtype)
    rows = weight_rows(weight, out.shape[2])
    depthwise_forward(image, rows, bands, out, np.empty(bands.values, x.dtype))
    return out


def depthwise_backward_input(dy: Real, rows: Real, bands: Bands, dx: Real, work: Real) -> None:
    """Add ``dx[n,p,q,o] = sum over i,j of dy[n,h,w,o] * weight[o,i,j]`` where ``p = h*s+i-top``."""
    for images, band in bands.over(len(dy)):
        for tap in band.taps:
            target = dy[images, tap.target[0], tap.target[1]]
            place = dx[images, tap.source[0], tap.source[1]]
            place += np.multiply(target, rows[tap.place, : target.shape[2]], out=_like(target, work))


def depthwise_backward_weight(x: Real, dy: Real, bands: Bands, dw: Real, work: Real) -> None:
    """Write ``dw[o,i*KW+j] = sum over n,h,w of dy[n,h,w,o] * x[n, h*s+i-top, w*s+j-left, o]``."""
    dw.fill(0)
    ones = np.ones(bands.values, dy.dtype)
    for images, band in bands.over(len(x)):
        for tap in band.taps:
            source = x[images, tap.source[0], tap.source[1]]
            target = dy[images, tap.target[0], tap.target[1]]
            product = np.multiply(source, target, out=_like(target, work))
            lines = product.reshape(target.shape[0] * target.shape[1], -1)
            dw[:, tap.place] += (ones[: len(lines)] @ lines).reshape(-1, len(dw)).sum(axis=0)


def _like(target: Array, work: Array) -> Array:
    """Scratch of the shape of `target`."""
    return work[: target.size].reshape(target.shape)
