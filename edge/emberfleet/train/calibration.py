"""Quantization ranges observed on real images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from emberfleet.core.arrays import Float32, Float64, Real, Tensors
from emberfleet.core.errors import ConfigError, ShapeError
from emberfleet.core.graph import Graph
from emberfleet.core.quantization import quantization_points
from emberfleet.engine.numpy_backend.activations import activations

BATCH = 64


def calibrate(
    graph: Graph, tensors: Tensors, x: Float32, percentile: float = 100.0, threads: int | None = None
) -> dict[str, Float32]:
    """Observe the range of every activation that becomes 8-bit.

    Args:
        graph: The network.
        tensors: Its parameters and running statistics, and the input's range, which stays as it is.
        x: ``(N, H, W, C)`` preprocessed images, at least one.
        percentile: 100 takes each batch's smallest and largest value; 99.9 leaves a thousandth of
            its values out on each side. The range spans the batches' mean low to mean high below
            100, their extremes at 100.
        threads: Most threads to use; None: EMBERFLEET_THREADS, else no bound.

    Returns:
        The ranges, ``point/range`` of shape (2,) each, to be put among the tensors.
    """
    if not len(x):
        raise ShapeError("calibration needs at least one image")
    if not 50.0 < percentile <= 100.0:
        raise ConfigError(f"calibration: percentile is {percentile}, expected above 50 and at most 100")
    points = quantization_points(graph)
    weights = {name: tensors[name] for name in (*graph.parameters, *graph.state)}
    seen: dict[str, list[tuple[float, float]]] = {}
    for start in range(0, len(x), BATCH):
        values = activations(graph, weights, x[start : start + BATCH], points, threads)
        for name, extremes in _extremes(points, values, percentile).items():
            seen.setdefault(name, []).append(extremes)
    fixed = points[graph.input.name]
    ranges = {
        name: _join(np.array(pairs), percentile)
        for name, pairs in seen.items()
        if name != fixed or fixed not in tensors
    }
    if fixed in tensors:
        ranges[fixed] = np.asarray(tensors[fixed], np.float32)
    return ranges


def _extremes(
    points: Mapping[str, str], values: Mapping[str, Real], percentile: float
) -> dict[str, tuple[float, float]]:
    """Low and high of one batch for every range; places that share a range take the wider."""
    found: dict[str, tuple[float, float]] = {}
    for point, name in points.items():
        low, high = (float(v) for v in np.percentile(values[point], [100.0 - percentile, percentile]))
        if name in found:
            low, high = min(low, found[name][0]), max(high, found[name][1])
        found[name] = (low, high)
    return found


def _join(pairs: Float64, percentile: float) -> Float32:
    if percentile == 100.0:
        return np.array([pairs[:, 0].min(), pairs[:, 1].max()], np.float32)
    return np.array([pairs[:, 0].mean(), pairs[:, 1].mean()], np.float32)
