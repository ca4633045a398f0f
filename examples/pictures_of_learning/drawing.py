"""Weights, evidence and points as pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emberfleet.core.arrays import Float32, Float64, Int64, UInt8
from emberfleet.train.report.html import Html, element, text

FOR = np.array([214, 96, 10], np.float64)
AGAINST = np.array([36, 88, 197], np.float64)
COLOURS = (
    "#2458c5", "#d4600a", "#12805c", "#a03a94", "#6b7280",
    "#b08900", "#0e94b8", "#d02c5f", "#6a9a1f", "#7a4a1e",
)  # fmt: skip


def filters_of(weights: Float32) -> list[UInt8]:
    """One picture for each output of a first layer: white is 0, orange above, blue below.

    Args:
        weights: ``(O, KH, KW, C)``; the channels are added up.
    """
    flat = weights.sum(axis=3).astype(np.float64)
    # Each picture has its own scale; the percentile keeps one extreme pixel from paling all others.
    scale = np.percentile(np.abs(flat), 99.5, axis=(1, 2), keepdims=True)
    return [diverging(picture) for picture in flat / np.maximum(scale, 1e-12)]


def diverging(values: Float64) -> UInt8:
    """``(H, W)`` values in [-1, 1] as ``(H, W, 3)`` colours."""
    strength = np.minimum(np.abs(values), 1.0)[..., None]
    colour = np.where(values[..., None] >= 0, FOR, AGAINST)
    picture: UInt8 = np.rint(255 * (1 - strength) + colour * strength).astype(np.uint8)
    return picture


def overlay(image: UInt8, evidence: Float32, enlarge: int = 4) -> UInt8:
    """An image ``(H, W, 1)``, ink dark on white, under a coarse map ``(h, w)`` of evidence."""
    side = image.shape[0] * enlarge
    ink = 255.0 - np.repeat(np.repeat(image[..., 0], enlarge, axis=0), enlarge, axis=1)
    smooth = enlarged(evidence.astype(np.float64), side)
    strength = 0.75 * np.abs(smooth) / max(float(np.abs(smooth).max()), 1e-12)
    colour = np.where(smooth[..., None] >= 0, FOR, AGAINST)
    tinted = 255 * (1 - strength[..., None]) + colour * strength[..., None]
    # Multiplied, the ink stays black and the paper takes the colour.
    picture: UInt8 = np.rint(tinted * ink[..., None] / 255.0).astype(np.uint8)
    return picture


def enlarged(values: Float64, side: int) -> Float64:
    """``(h, w)`` values on ``(side, side)`` pixels, linear between the centres."""
    for axis in (0, 1):
        centres = (np.arange(values.shape[axis]) + 0.5) * side / values.shape[axis]
        at = np.arange(side) + 0.5
        values = np.apply_along_axis(lambda line, x=at, xp=centres: np.interp(x, xp, line), axis, values)
    return values


def scatter(points: Float64, labels: Int64, classes: Sequence[str], side: float = 720.0) -> Html:
    """Points ``(N, 2)`` coloured by class; each class's name stands at its middle."""
    low, high = points.min(axis=0), points.max(axis=0)
    places = 20 + (side - 40) * (points - low) / np.maximum(high - low, 1e-12)
    dots = [
        element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3, fill=COLOURS[k % 10], fill_opacity=0.55)
        for (x, y), k in zip(places, labels.tolist(), strict=True)
    ]
    names = []
    for k, name in enumerate(classes):
        own = places[labels == k]
        if len(own):
            x, y = np.median(own, axis=0)
            style = (
                f"font-size:26px;font-weight:700;fill:{COLOURS[k % 10]};stroke:var(--card);"
                "stroke-width:6px;paint-order:stroke"
            )
            names.append(
                element("text", text(name), x=f"{x:.1f}", y=f"{y + 9:.1f}", text_anchor="middle", style=style)
            )
    return element(
        "svg", *dots, *names, viewBox=f"0 0 {side:g} {side:g}", role="img",
        aria_label="test images as points", style=f"max-width:{side:g}px;margin:0 auto",
    )  # fmt: skip
