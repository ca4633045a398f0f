"""Quantization ranges observed on real images.

==============  ============================================================================================
``minmax``      the smallest and the largest value seen
``percentile``  all but a share of the values on each side: a few stray ones do not widen every step
``mse``         the least sum of squared rounding errors over all values, by histogram
``pools``       as ``minmax``, but what only a global average pool reads by the error behind the pool
==============  ============================================================================================

``mse`` too judges behind a global average pool what only the pool reads. The mean is rounded to the same
steps once more, so a class map of range [0, 388] whose means lie below 30 would leave 20 different scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from emberfleet.core.arrays import Float32, Real, Tensors
from emberfleet.core.errors import ConfigError, ShapeError
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Dropout, GlobalAveragePool
from emberfleet.core.quantization import QuantParams, fake_quantize, quantization_points
from emberfleet.engine.numpy_backend.activations import activations
from emberfleet.train.calibration.histogram import Histogram, Range, candidates

METHODS = ("minmax", "percentile", "mse", "pools")
PERCENTILE = 99.99
BATCH_BYTES = 128 << 20
"""Of the widest tensor of one batch of images."""
POOLED_BYTES = 24 << 20
"""Of values in front of a global average pool that are kept to choose their range."""


def calibrate(
    graph: Graph,
    tensors: Tensors,
    x: Float32,
    method: str = "minmax",
    percentile: float = PERCENTILE,
    threads: int | None = None,
) -> dict[str, Float32]:
    """Observe the range of every activation that becomes 8-bit.

    Args:
        graph: The network.
        tensors: Its parameters and running statistics, and the input's range, which stays as it is.
        x: ``(N, H, W, C)`` preprocessed images, at least one.
        method: One of `METHODS`.
        percentile: For ``percentile`` alone: 99.99 leaves a ten-thousandth of the values out on each side.
        threads: Most threads to use; None: EMBERFLEET_THREADS, else no bound.

    Returns:
        The ranges, ``point/range`` of shape (2,) each, to be put among the tensors.
    """
    if not len(x):
        raise ShapeError("calibration needs at least one image")
    if method not in METHODS:
        raise ConfigError(f"calibration: method is '{method}', expected one of {', '.join(METHODS)}")
    if not 50.0 < percentile <= 100.0:
        raise ConfigError(f"calibration: percentile is {percentile}, expected above 50 and at most 100")
    points = quantization_points(graph)
    fixed = points[graph.input.name]
    observed = {node: name for node, name in points.items() if name != fixed or fixed not in tensors}
    weights = {name: tensors[name] for name in (*graph.parameters, *graph.state)}

    def watch(look: Callable[[str, Real], None], images: Float32) -> None:
        """Call `look` with every observed tensor's range and values, batch by batch."""

        def alter(node: str, values: Real) -> Real:
            if node in observed:
                look(observed[node], values)
            return values

        for start in range(0, len(images), batch_of(graph)):
            activations(graph, weights, images[start : start + batch_of(graph)], (), threads, alter)

    extremes = {name: Range(math.inf, -math.inf) for name in observed.values()}

    def widen(name: str, values: Real) -> None:
        low, high = extremes[name]
        extremes[name] = Range(min(low, float(values.min())), max(high, float(values.max())))

    watch(widen, x)
    chosen = extremes
    if method in ("percentile", "mse"):
        histograms = {name: Histogram(*extreme) for name, extreme in extremes.items()}
        watch(lambda name, values: histograms[name].add(values), x)
        chosen = {
            name: counts.percentile(percentile) if method == "percentile" else counts.least_error()
            for name, counts in histograms.items()
        }
    if method in ("mse", "pools"):
        chosen = chosen | _behind_pools(graph, weights, x, observed, extremes, threads)
    ranges = {name: np.array(found, np.float32) for name, found in chosen.items()}
    if fixed in tensors:
        ranges[fixed] = np.asarray(tensors[fixed], np.float32)
    return ranges


def batch_of(graph: Graph) -> int:
    """How many images go through the network at once."""
    widest = max(math.prod(shape) for shape in graph.shapes.values())
    return max(1, min(64, BATCH_BYTES // (4 * widest)))


def pooled_error(values: Real, chosen: Range) -> float:
    """Sum of squared errors of the means of ``(N, H, W, C)`` over h and w, rounded on both sides."""
    params = QuantParams.from_range(*chosen)
    means = values.mean(axis=(1, 2), dtype=np.float64)
    rounded = fake_quantize(values, params).mean(axis=(1, 2), dtype=np.float64)
    rounded = np.rint(rounded / params.scale) * params.scale
    return float(((rounded - means) ** 2).sum())


def _behind_pools(
    graph: Graph,
    weights: Tensors,
    x: Float32,
    observed: Mapping[str, str],
    extremes: Mapping[str, Range],
    threads: int | None,
) -> dict[str, Range]:
    """For every tensor that global average pools alone read, the range of least error behind them."""
    pooled = {node: name for node, name in observed.items() if _feeds_only_pools(graph, node)}
    found: dict[str, Range] = {}
    for node, name in pooled.items():
        count = max(1, POOLED_BYTES // (4 * math.prod(graph.shapes[node])))
        images = x[:: -(-len(x) // count)]
        step = batch_of(graph)
        values = np.concatenate(
            [
                activations(graph, weights, images[start : start + step], [node], threads)[node]
                for start in range(0, len(images), step)
            ]
        )
        widest = Range(min(extremes[name].low, 0.0), max(extremes[name].high, 0.0))
        best, least = widest, pooled_error(values, widest)
        for side in (1, 0):
            for candidate in candidates(best, widest, side)[::2]:
                error = pooled_error(values, candidate)
                if error < least:
                    best, least = candidate, error
        found[name] = best
    return found


def _feeds_only_pools(graph: Graph, node: str) -> bool:
    readers = graph.consumers[node]
    return bool(readers) and all(
        isinstance(reader, GlobalAveragePool)
        or (isinstance(reader, Dropout) and _feeds_only_pools(graph, reader.name))
        for reader in readers
    )
