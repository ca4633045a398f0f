"""Which layer loses how much in 8 bits: each tensor rounded alone, and what that does to the scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emberfleet.core.arrays import Float32, Float64, Real
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D, DepthwiseConv2D
from emberfleet.core.quantization import (
    fake_quantize,
    fake_quantize_weights,
    quantization_points,
    range_params,
)
from emberfleet.engine.numpy_backend.activations import Alter, activations
from emberfleet.train.calibration.ranges import batch_of
from emberfleet.train.report.html import Html, element, join, text
from emberfleet.train.trained import TrainedModel

LOUD_DB = 40.0
"""Below it a tensor is drawn in the colour of warning: it alone may change an answer."""
BEST_DB = 80.0
ROW, LEFT, WIDTH = 18, 190, 640


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What rounding one tensor alone does to the scores."""

    tensor: str
    """A node's name for an activation, ``NODE/weight`` for weights."""
    signal_to_noise_db: float
    """Variance of the exact scores over that of the difference, in decibels; infinite for none."""


def measure_sensitivity(model: TrainedModel, x: Float32, threads: int | None = None) -> list[Sensitivity]:
    """Every activation and every weight rounded alone, the one that loses most first.

    Args:
        model: A model with all ranges.
        x: ``(N, H, W, C)`` preprocessed images; as many as fit into one batch are used.
        threads: Most threads to use; None: EMBERFLEET_THREADS, else no bound.

    Raises:
        QuantError: a range is missing.
    """
    graph, tensors = model.graph, model.tensors
    held = {name: tensors[name] for name in (*graph.parameters, *graph.state)}
    images = x[:: -(-len(x) // batch_of(graph))]
    points = {node: range_params(tensors, name) for node, name in quantization_points(graph).items()}
    exact = _scores(graph, held, images, threads)
    found: list[Sensitivity] = []
    for node in points:

        def alone(name: str, values: Real, node: str = node) -> Real:
            return fake_quantize(values, points[node]) if name == node else values

        found.append(Sensitivity(node, _decibels(exact, _scores(graph, held, images, threads, alone))))
    for layer in graph.nodes:
        if isinstance(layer, (Conv2D, DepthwiseConv2D)):
            name = f"{layer.name}/weight"
            rounded = {**held, name: fake_quantize_weights(held[name])}
            found.append(Sensitivity(name, _decibels(exact, _scores(graph, rounded, images, threads))))
    return sorted(found, key=lambda one: one.signal_to_noise_db)


def draw_sensitivity(found: Sequence[Sensitivity]) -> str:
    """A picture as SVG: one bar for each tensor, the shortest on top, those below 40 dB in red."""
    bars: list[Html] = []
    for n, one in enumerate(found):
        level = min(max(one.signal_to_noise_db, 0.0), BEST_DB)
        y = n * ROW
        colour = "#c0392b" if level < LOUD_DB else "#2c7fb8"
        length = f"{level / BEST_DB * (WIDTH - LEFT - 60):.1f}"
        label = f"{one.signal_to_noise_db:.1f} dB" if math.isfinite(one.signal_to_noise_db) else "exact"
        right = {"x": LEFT - 6, "y": y + 13, "text-anchor": "end"}
        bars += [
            element("text", text(one.tensor), **right),
            element("rect", x=LEFT, y=y + 3, width=length, height=ROW - 6, fill=colour),
            element("text", text(label), x=LEFT + float(length) + 4, y=y + 13),
        ]
    size = {"width": WIDTH, "height": max(1, len(found)) * ROW, "font-family": "sans-serif", "font-size": 11}
    return str(element("svg", join(bars), xmlns="http://www.w3.org/2000/svg", **size))


def _scores(
    graph: Graph, tensors: dict[str, Float32], x: Float32, threads: int | None, alter: Alter | None = None
) -> Float64:
    """Scores less their mean over the classes, which no prediction depends on."""
    name = graph.logits
    scores = activations(graph, tensors, x, [name], threads, alter)[name].astype(np.float64)
    centred: Float64 = scores - scores.mean(axis=-1, keepdims=True)
    return centred


def _decibels(exact: Float64, rounded: Float64) -> float:
    noise = float(((rounded - exact) ** 2).sum())
    return 10.0 * math.log10(max(float((exact**2).sum()), 1e-300) / noise) if noise > 0.0 else math.inf
