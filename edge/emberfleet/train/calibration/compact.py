"""Weights of few bits: as coarse as the network's answer allows, and no coarser where it is sensitive.

All weights of a convolution share one step, unless a channel's largest needs a wider one. How coarse it
may be follows from what an error in that layer does to the scores, measured on images: the least error in
all for a number of bits has every bit buy equally much, so one number, the error of a weight in the scores,
sets every step (reverse water-filling).
`calibration.rounding` then chooses the levels: errors are fed forward, and levels that cost fewer bits are
taken where the error allows it, which prunes small weights to zero. A wire file (`converters.wire`)
stores the levels at close to their entropy.

Source: Chou, Lookabaugh and Gray 1989; Young et al. 2021, arXiv:2012.15011, for the weighing of layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from emberfleet.core.arrays import Float32, Float64, Int32, Tensors, UInt8
from emberfleet.core.errors import ConfigError
from emberfleet.core.graph import Conv2D, Graph
from emberfleet.engine.numpy_backend.activations import activations
from emberfleet.train.calibration.inputs import absorb_preprocessing
from emberfleet.train.calibration.model import MOMENT_PHOTOS, Calibration, foldable
from emberfleet.train.calibration.pools import spread_pools
from emberfleet.train.calibration.ranges import batch_of, calibrate
from emberfleet.train.calibration.rounding import conditional_factors, levels_of, patch_moments
from emberfleet.train.trained import TrainedModel

MOST = 127
"""Largest magnitude of a level."""
PROBES = 16
"""Images that a layer's weight in the answer is measured on."""
BIAS_BITS = 12
"""Of mantissa that biases keep."""
SEARCH_STEPS = 8
FIRST_ERROR = 1e-9
COARSEST, FINEST = 1.0, 1e-16
"""Errors that the search for a size stays within, as shares of the scores' own variance."""
CLOSE_ENOUGH = 0.01
"""Of the target that may be left."""


class Layer(NamedTuple):
    """A convolution whose weights are to be rounded."""

    name: str
    weight: Float32
    order: np.ndarray
    upper: Float64
    sensitivity: float
    """Share of the scores' variance per unit of squared error in what the layer produces."""


def compact_model(
    model: TrainedModel, images: UInt8, target_bytes: int, options: Calibration | None = None
) -> TrainedModel:
    """The model, calibrated for 8 bits, with weights that take at most `target_bytes`.

    Args:
        model: Trained in floating point.
        images: ``(N, H, W, C)`` bytes like those that the model will see.
        target_bytes: Of all convolutions' weights together; a wire file adds its manifest, biases and labels.
        options: As for `calibrate_model`; only ``absorb``, ``spread`` and the ranges count.

    Raises:
        ConfigError: fewer bytes than the coarsest weights take.
    """
    chosen = Calibration() if options is None else options
    model = absorb_preprocessing(model) if chosen.absorb else model
    x = model.preprocessing.apply(images)
    graph, held = foldable(model.graph, {k: v for k, v in model.tensors.items() if not k.endswith("/range")})
    layers = measure_layers(graph, held, x[:: -(-len(x) // MOMENT_PHOTOS)], chosen.threads)
    levels, steps = _at_most(layers, target_bytes)
    for layer in layers:
        step = steps[layer.name][:, None, None, None]
        held[f"{layer.name}/weight"] = levels[layer.name].astype(np.float32) * step
        held[f"{layer.name}/bias"] = short_floats(held[f"{layer.name}/bias"])
    if chosen.spread:
        graph, held = spread_pools(graph, held)
    held[f"{graph.input.name}/range"] = np.array(model.preprocessing.range, np.float32)
    held |= calibrate(graph, held, x, chosen.method, chosen.percentile, chosen.threads)
    return replace(model, graph=graph, tensors=held)


def measure_layers(graph: Graph, tensors: Tensors, x: Float32, threads: int | None = None) -> list[Layer]:
    """What rounding each convolution needs: its inputs' moments, and what its errors do to the scores."""
    moments = patch_moments(graph, tensors, x, threads)
    probes = x[:: max(1, len(x) // PROBES)][: max(1, min(PROBES, batch_of(graph)))]
    exact = _centred_scores(graph, tensors, probes, threads)
    variance = float((exact**2).sum()) / len(probes)
    layers = []
    for node in graph.nodes:
        if not isinstance(node, Conv2D):
            continue
        name = f"{node.name}/weight"
        weight = np.asarray(tensors[name], np.float32)
        step = max(0.7 * float(weight.std()), 1e-12)
        rounded = (np.rint(weight / step) * step).astype(np.float32)
        off = (rounded - weight).reshape(len(weight), -1).astype(np.float64)
        made = float(((off @ moments[node.name]) * off).sum())
        scores = _centred_scores(graph, {**tensors, name: rounded}, probes, threads)
        answer = float(((scores - exact) ** 2).sum()) / len(probes) / max(variance, 1e-12)
        order, upper = conditional_factors(moments[node.name])
        layers.append(Layer(node.name, weight, order, upper, max(answer / max(made, 1e-30), 1e-30)))
    return layers


def rounded_layers(layers: list[Layer], error: float) -> tuple[dict[str, Int32], dict[str, Float32], float]:
    """Levels and steps by layer where a weight's error in the scores is `error`, and the bytes they take."""
    levels: dict[str, Int32] = {}
    steps: dict[str, Float32] = {}
    total = 0.0
    for layer in layers:
        typical = math.exp(float(np.log(1.0 / layer.upper.diagonal() ** 2).mean()))
        finest = np.abs(layer.weight).max(axis=(1, 2, 3)) / MOST
        wanted = math.sqrt(12.0 * error / (layer.sensitivity * typical))
        step = np.maximum(np.maximum(finest, wanted), 1e-30).astype(np.float32)
        rate = 2.0 * math.log(2.0) * error / layer.sensitivity
        found = levels_of(layer.weight, layer.order, layer.upper, step.astype(np.float64), MOST, rate)
        levels[layer.name], steps[layer.name] = found, step
        total += entropy_bytes(found)
    return levels, steps, total


def entropy_bytes(levels: Int32) -> float:
    """What an ideal coder that knows how often each level comes needs for them."""
    counts = np.unique(levels, return_counts=True)[1]
    return float(-(counts * np.log2(counts / levels.size)).sum()) / 8.0


def short_floats(values: Float32) -> Float32:
    """Numbers with `BIAS_BITS` of mantissa, the rest zero: they compress to half."""
    mantissa, exponent = np.frexp(values.astype(np.float64))
    short: Float32 = np.ldexp(np.rint(np.ldexp(mantissa, BIAS_BITS)), exponent - BIAS_BITS).astype(np.float32)
    return short


def _at_most(layers: list[Layer], target_bytes: int) -> tuple[Mapping[str, Int32], Mapping[str, Float32]]:
    """The finest weights within the target: each doubling of a step takes one bit off every weight."""
    weights = sum(layer.weight.size for layer in layers)
    best: tuple[dict[str, Int32], dict[str, Float32], float] | None = None
    logarithm = math.log(FIRST_ERROR)
    for _ in range(SEARCH_STEPS):
        found = rounded_layers(layers, math.exp(logarithm))
        if found[2] <= target_bytes and (best is None or found[2] > best[2]):
            best = found
        if 0.0 <= target_bytes - found[2] <= CLOSE_ENOUGH * target_bytes:
            break
        logarithm += (found[2] - target_bytes * (1.0 - CLOSE_ENOUGH / 2.0)) * 16.0 * math.log(2.0) / weights
        logarithm = min(max(logarithm, math.log(FINEST)), math.log(COARSEST))
    if best is None:
        raise ConfigError(f"compact: {target_bytes} bytes are too few for {weights} weights; allow more")
    return best[0], best[1]


def _centred_scores(graph: Graph, tensors: Tensors, x: Float32, threads: int | None) -> Float64:
    """Scores less their mean over the classes, which no prediction depends on."""
    held = {name: tensors[name] for name in graph.parameters}
    scores = activations(graph, held, x, [graph.logits], threads)[graph.logits].astype(np.float64)
    centred: Float64 = scores - scores.mean(axis=-1, keepdims=True)
    return centred
