"""Rounding weights with what the inputs look like: later weights make up for the error of earlier ones.

Rounding every weight to the nearest step has the least error in the weights, not in what the layer
produces: inputs are correlated, so the error of one weight can be taken back by others. Weights are rounded
one input after another; what is left over is spread over those that are still to come by the inverse of
``H = sum of x x^T`` over the patches that the layer reads.

With a rate, a rounding that costs fewer bits is taken where the error allows it: levels near zero cost less.

Source: Frantar et al. 2022, arXiv:2210.17323, after Hassibi and Stork 1993; entropy-constrained
quantization: Chou, Lookabaugh and Gray 1989.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from emberfleet.core.arrays import Float32, Float64, Int32, Real, Tensors
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D
from emberfleet.core.quantization import WEIGHT_MAX, weight_scales
from emberfleet.engine.numpy_backend.activations import activations
from emberfleet.train.calibration.ranges import batch_of

PATCHES_PER_IMAGE = 200
DAMPING = 0.01
"""Of the mean diagonal of H, added to it: directions that no image shows stay put."""
RATE_PASSES = 3
"""Over the levels with what each of them costs after the last pass."""
SEED = 7


def patch_moments(
    graph: Graph, tensors: Tensors, x: Float32, threads: int | None = None
) -> dict[str, Float64]:
    """``mean of p p^T`` of each convolution's input patches ``p``, by the convolution's name: ``(K, K)``.

    Args:
        graph: A folded network.
        tensors: Its parameters.
        x: ``(N, H, W, C)`` preprocessed images.
        threads: Most threads to use; None: EMBERFLEET_THREADS, else no bound.
    """
    readers: dict[str, list[Conv2D]] = {}
    for node in graph.nodes:
        if isinstance(node, Conv2D):
            readers.setdefault(node.inputs[0], []).append(node)
    moments: dict[str, Float64] = {}
    generator = np.random.default_rng(SEED)
    held = {name: tensors[name] for name in graph.parameters}

    def look(name: str, values: Real) -> Real:
        for node in readers.get(name, ()):
            # In float32 the order of the sums, which threads change, would change the levels.
            patches = _patches(node, values, generator).astype(np.float64)
            found = patches.T @ patches / len(x)
            moments[node.name] = moments[node.name] + found if node.name in moments else found
        return values

    for start in range(0, len(x), batch_of(graph)):
        activations(graph, held, x[start : start + batch_of(graph)], (), threads, look)
    return moments


def round_with_moments(weights: Float32, moments: Float64, steps: Float64, most: int = WEIGHT_MAX) -> Int32:
    """Levels ``(O, KH, KW, C)`` of least error in what the layer produces, each rounding fed forward.

    Args:
        weights: ``(O, KH, KW, C)``.
        moments: ``(K, K)`` of `patch_moments`, K = KH x KW x C.
        steps: ``(O,)`` real number that one level stands for, positive.
        most: Largest magnitude of a level.
    """
    order, upper = conditional_factors(moments)
    return levels_of(weights, order, upper, steps, most)


def conditional_factors(moments: Float64) -> tuple[np.ndarray, Float64]:
    """The order in which inputs are rounded, strongest first, and how errors pass on in that order.

    Returns:
        A permutation of K, and the upper triangular ``(K, K)`` with ``U^T U`` the inverse of the moments.
    """
    diagonal = moments.diagonal()
    damped = moments + np.eye(len(moments)) * (DAMPING * max(float(diagonal.mean()), 1e-12))
    order = np.argsort(-diagonal, kind="stable")
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    return order, np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float64)


def levels_of(weights: Float32, order: np.ndarray, upper: Float64, steps: Float64, most: int) -> Int32:
    """`round_with_moments`, where `conditional_factors` are there already."""
    rows = weights.reshape(len(weights), -1).astype(np.float64)[:, order]
    return _as_weights(_feed_forward(rows, upper, steps, most), order, weights)


def coarse_levels(
    weights: Float32, order: np.ndarray, upper: Float64, steps: Float64, most: int, rate: Float64
) -> Int32:
    """Levels for coding: cheap ones where the error allows it, and exact about what 8 bits make of them.

    The 8-bit network has 127 steps up to a row's largest weight, so it rounds the levels between once more.
    The error that is fed forward is that of the value which the network will have.

    Args:
        weights: ``(O, KH, KW, C)``.
        order: Of `conditional_factors`.
        upper: Of `conditional_factors`.
        steps: ``(O,)`` real number that one level stands for, positive.
        most: Largest magnitude of a level.
        rate: ``(O,)`` squared error of an output channel that one bit is worth.
    """
    rows = weights.reshape(len(weights), -1).astype(np.float64)[:, order]
    levels = _feed_forward(rows, upper, steps, most)
    for _ in range(RATE_PASSES):
        counts = np.bincount((levels + most).ravel(), minlength=2 * most + 1) + 0.1
        levels = _feed_cheaply(rows, upper, steps, most, rate, -np.log2(counts / counts.sum()))
    return _as_weights(levels, order, weights)


def _as_weights(levels: Int32, order: np.ndarray, weights: Float32) -> Int32:
    result = np.empty_like(levels)
    result[:, order] = levels
    return result.reshape(weights.shape)


def round_weights(
    graph: Graph, tensors: Mapping[str, Float32], moments: Mapping[str, Float64]
) -> dict[str, Float32]:
    """Convolution weights as multiples of their 8-bit scales, rounded with `round_with_moments`."""
    rounded = dict(tensors)
    for name, moment in moments.items():
        weight = tensors[f"{name}/weight"]
        scales = weight_scales(weight)
        levels = round_with_moments(weight, moment, scales.astype(np.float64)).reshape(len(weight), -1)
        # The scale follows from the largest weight, so that one stays at the largest level.
        rows, largest = np.arange(len(weight)), np.abs(weight.reshape(len(weight), -1)).argmax(axis=1)
        signs = np.sign(weight.reshape(len(weight), -1)[rows, largest])
        levels[rows, largest] = (WEIGHT_MAX * signs).astype(np.int32)
        rounded[f"{name}/weight"] = (levels.astype(np.float32) * scales[:, None]).reshape(weight.shape)
    return rounded


def _feed_forward(rows: Float64, upper: Float64, steps: Float64, most: int) -> Int32:
    """Levels of ``(O, K)`` rows, column after column, the error of each passed on by the rows of `upper`."""
    left = rows.copy()
    levels = np.zeros(rows.shape, np.int32)
    for column in range(rows.shape[1]):
        levels[:, column] = np.clip(np.rint(left[:, column] / steps), -most, most)
        error = (left[:, column] - levels[:, column] * steps) / upper[column, column]
        left[:, column + 1 :] -= error[:, None] * upper[column, column + 1 :]
    return levels


def _feed_cheaply(
    rows: Float64, upper: Float64, steps: Float64, most: int, rate: Float64, bits: Float64
) -> Int32:
    """`_feed_forward` with levels that cost `bits`, and the values that the 8-bit network has for them."""
    largest, peak = np.abs(rows).argmax(axis=1), np.abs(rows).max(axis=1)
    top = np.clip(np.rint(peak / steps), 1, most)
    signs = np.sign(rows[np.arange(len(rows)), largest]) * (peak >= steps / 2)
    left = rows.copy()
    levels = np.zeros(rows.shape, np.int32)
    for column in range(rows.shape[1]):
        nearest = np.clip(np.rint(left[:, column] / steps), -top, top)
        options = np.stack([nearest, nearest - np.sign(nearest), np.zeros_like(nearest)]).astype(np.int32)
        values = np.rint(options * (WEIGHT_MAX / top)) * (top * steps / WEIGHT_MAX)
        cost = ((values - left[:, column]) / upper[column, column]) ** 2 + rate * bits[options + most]
        best = cost.argmin(axis=0)[None]
        # The 8-bit scale follows from the largest weight, so that one stays at the largest level.
        kept = largest == column
        levels[:, column] = np.where(kept, signs * top, np.take_along_axis(options, best, axis=0)[0])
        value = np.where(kept, signs * top * steps, np.take_along_axis(values, best, axis=0)[0])
        error = (left[:, column] - value) / upper[column, column]
        left[:, column + 1 :] -= error[:, None] * upper[column, column + 1 :]
    return levels


def _patches(node: Conv2D, values: Real, generator: np.random.Generator) -> Float32:
    """Some of the patches ``(n, KH * KW * C)`` that a convolution reads, scaled to stand for all of them."""
    top, left, bottom, right = node.padding
    padded = np.pad(values, ((0, 0), (top, bottom), (left, right), (0, 0)))
    (kh, kw), (sh, sw) = node.kernel, node.stride
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), axis=(1, 2))[:, ::sh, ::sw]
    n, h, w = windows.shape[:3]
    count = min(h * w, PATCHES_PER_IMAGE)
    places = generator.choice(h * w, count, replace=False)
    chosen = windows[:, places // w, places % w].transpose(0, 1, 3, 4, 2).reshape(n * count, -1)
    scaled: Float32 = chosen.astype(np.float32) * np.float32((h * w / count) ** 0.5)
    return scaled
