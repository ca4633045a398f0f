"""Weights of few bits: as coarse as the network's answer allows, and no coarser where it is sensitive.

Channels are equalised first. The weights of a convolution then share one step, but for the factor that each
output channel was divided by, and where a channel's largest weight needs a wider one. How coarse it may be
follows from what an error in that layer does to the scores, measured on images: the least error in all for a
number of bits has every bit buy equally much, so one number, the error of a weight in the scores, sets every
step (reverse water-filling).
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
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D
from emberfleet.engine.numpy_backend.activations import activations
from emberfleet.train.calibration.equalisation import equalised
from emberfleet.train.calibration.inputs import absorb_preprocessing
from emberfleet.train.calibration.model import MOMENT_PHOTOS, Calibration, foldable
from emberfleet.train.calibration.pools import spread_pools
from emberfleet.train.calibration.ranges import batch_of, calibrate
from emberfleet.train.calibration.rounding import coarse_levels, conditional_factors, patch_moments
from emberfleet.train.trained import TrainedModel

MOST = 127
"""Largest magnitude of a level."""
PHOTOS = 200
"""Evenly spaced images that moments are taken from: coarse weights need more than fine ones."""
PROBES = 16
"""Images that a layer's weight in the answer is measured on."""
BIAS_BITS = 12
"""Of mantissa that biases keep."""
STEP_BITS = 5
"""Of mantissa that steps keep, rounded up: one per output channel travels along."""
SEARCH_STEPS = 8
FIRST_ERROR = 1e-9
COARSEST, FINEST = 1.0, 1e-16
"""Errors that the search for a size stays within, as shares of the scores' own variance."""
CLOSE_ENOUGH = 0.003
"""Of the target that may be left."""


class Layer(NamedTuple):
    """A convolution whose weights are to be rounded."""

    name: str
    weight: Float32
    order: np.ndarray
    upper: Float64
    sensitivity: float
    """Share of the scores' variance per unit of squared error in what the layer produced before."""
    factors: Float64
    """``(O,)`` what equalising has divided each output channel by: its errors count so much more."""


def compact_model(
    model: TrainedModel, images: UInt8, target_bytes: int, options: Calibration | None = None
) -> TrainedModel:
    """The model, calibrated for 8 bits, with weights that take at most `target_bytes`.

    Args:
        model: Trained in floating point.
        images: ``(N, H, W, C)`` bytes like those that the model will see.
        target_bytes: Of all convolutions' weights together; a wire file adds its manifest, biases and labels.
        options: As for `calibrate_model`; all but ``clip``, ``rounding`` and ``bias`` count.

    Raises:
        ConfigError: fewer bytes than the coarsest weights take.
    """
    chosen = Calibration() if options is None else options
    model = absorb_preprocessing(model) if chosen.absorb else model
    x = model.preprocessing.apply(images)
    graph, held = foldable(model.graph, {k: v for k, v in model.tensors.items() if not k.endswith("/range")})
    factors: Mapping[str, Float64] = {}
    if chosen.equalise:
        found = equalised(graph, held, x[:: -(-len(x) // MOMENT_PHOTOS)], chosen.threads)
        held, factors = held | found.tensors, found.factors
    layers = measure_layers(graph, held, x[:: -(-len(x) // PHOTOS)], factors, chosen.threads)
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


def measure_layers(
    graph: Graph,
    tensors: Tensors,
    x: Float32,
    factors: Mapping[str, Float64],
    threads: int | None = None,
) -> list[Layer]:
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
        factor = factors.get(node.name, np.ones(len(weight)))
        rows = weight.reshape(len(weight), -1) * factor[:, None]
        step = max(0.7 * float(rows.std()), 1e-12)
        off = np.rint(rows / step) * step - rows
        rounded = (weight + (off / factor[:, None]).reshape(weight.shape)).astype(np.float32)
        made = float(((off @ moments[node.name]) * off).sum())
        scores = _centred_scores(graph, {**tensors, name: rounded}, probes, threads)
        answer = float(((scores - exact) ** 2).sum()) / len(probes) / max(variance, 1e-12)
        order, upper = conditional_factors(moments[node.name])
        sensitivity = max(answer / max(made, 1e-30), 1e-30)
        layers.append(Layer(node.name, weight, order, upper, sensitivity, factor))
    return layers


def rounded_layers(layers: list[Layer], error: float) -> tuple[dict[str, Int32], dict[str, Float32], float]:
    """Levels and steps by layer where a weight's error in the scores is `error`, and the bytes they take."""
    levels: dict[str, Int32] = {}
    steps: dict[str, Float32] = {}
    total = 0.0
    for layer in layers:
        typical = math.exp(float(np.log(1.0 / layer.upper.diagonal() ** 2).mean()))
        finest = np.abs(layer.weight).max(axis=(1, 2, 3)) / MOST
        sensitivity = layer.sensitivity * layer.factors**2
        wanted = np.sqrt(12.0 * error / (sensitivity * typical))
        step = short_steps(np.maximum(np.maximum(finest, wanted), 1e-30))
        rate = 2.0 * math.log(2.0) * error / sensitivity
        found = coarse_levels(layer.weight, layer.order, layer.upper, step.astype(np.float64), MOST, rate)
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


def short_steps(steps: Float64) -> Float32:
    """Steps with `STEP_BITS` of mantissa, none smaller than it was."""
    mantissa, exponent = np.frexp(steps.astype(np.float64))
    short: Float32 = np.ldexp(np.ceil(np.ldexp(mantissa, STEP_BITS)), exponent - STEP_BITS).astype(np.float32)
    return short


def _at_most(layers: list[Layer], target_bytes: int) -> tuple[Mapping[str, Int32], Mapping[str, Float32]]:
    """The finest weights within the target: each doubling of a step takes one bit off every weight."""
    weights = sum(layer.weight.size for layer in layers)
    best: tuple[dict[str, Int32], dict[str, Float32], float] | None = None
    logarithm = math.log(FIRST_ERROR)
    fine, coarse = math.log(FINEST), math.log(COARSEST)
    for _ in range(SEARCH_STEPS):
        found = rounded_layers(layers, math.exp(logarithm))
        left = target_bytes - found[2]
        if left >= 0.0 and (best is None or found[2] > best[2]):
            best = found
        if 0.0 <= left <= CLOSE_ENOUGH * target_bytes:
            break
        fine, coarse = (fine, logarithm) if left >= 0.0 else (logarithm, coarse)
        aim = target_bytes * (1.0 - CLOSE_ENOUGH / 2.0)
        logarithm += (found[2] - aim) * 16.0 * math.log(2.0) / weights
        if not fine < logarithm < coarse:
            logarithm = (fine + coarse) / 2.0
    if best is None:
        raise ConfigError(f"compact: {target_bytes} bytes are too few for {weights} weights; allow more")
    return best[0], best[1]


def _centred_scores(graph: Graph, tensors: Tensors, x: Float32, threads: int | None) -> Float64:
    """Scores less their mean over the classes, which no prediction depends on."""
    held = {name: tensors[name] for name in graph.parameters}
    scores = activations(graph, held, x, [graph.logits], threads)[graph.logits].astype(np.float64)
    centred: Float64 = scores - scores.mean(axis=-1, keepdims=True)
    return centred
