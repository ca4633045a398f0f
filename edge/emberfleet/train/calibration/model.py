"""A model trained in floating point made ready for 8 bits, with nothing but images.

What is done, in this order, each step on its own switch:

1. ``absorb``: mean and deviation of the preprocessing go into the first convolution (`calibration.inputs`);
2. ``equalise``: channels brought to like ranges (`calibration.equalisation`);
3. ``spread``: a global average pool gets a range of its own (`calibration.pools`);
4. ``method``: every activation gets its range (`calibration.ranges`);
5. ``clip`` or ``rounding``: weights clipped where the squared error is least (`calibration.weights`), or
   rounded so that later weights make up for the error of earlier ones (`calibration.rounding`);
6. ``bias``: the means that rounding shifts are put back (`calibration.bias`).

Steps 2, 3, 5 and 6 change weights, so batch norm is folded into the convolutions first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from emberfleet.core.arrays import Float32, UInt8
from emberfleet.core.folding import fold
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import BatchNorm, Conv2D, DepthwiseConv2D
from emberfleet.train.calibration.bias import correct_bias
from emberfleet.train.calibration.equalisation import equalise
from emberfleet.train.calibration.inputs import absorb_preprocessing
from emberfleet.train.calibration.pools import spread_pools
from emberfleet.train.calibration.ranges import PERCENTILE, calibrate
from emberfleet.train.calibration.rounding import patch_moments, round_weights
from emberfleet.train.calibration.weights import clip_weights
from emberfleet.train.trained import TrainedModel

MOMENT_PHOTOS = 100
"""Evenly spaced images, enough for weights; ranges see all of them, or they cut what is rare."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a model is made ready for 8 bits; the defaults lost least (docs/decisions/quantization.md)."""

    method: str = "minmax"
    percentile: float = PERCENTILE
    absorb: bool = True
    equalise: bool = True
    spread: bool = True
    clip: bool = False
    rounding: bool = True
    bias: bool = True
    threads: int | None = None

    @property
    def changes_weights(self) -> bool:
        """Whether weights or biases become others."""
        return self.equalise or self.spread or self.clip or self.rounding or self.bias


def calibrate_model(model: TrainedModel, images: UInt8, options: Calibration | None = None) -> TrainedModel:
    """The model with a range for every activation, and weights that 8 bits keep best.

    Args:
        model: Trained in floating point, or with ranges that are replaced.
        images: ``(N, H, W, C)`` bytes like those that the model will see; a few hundred.
        options: What is done; None: the defaults.

    Raises:
        ShapeError: no images, or images of another size.
    """
    chosen = Calibration() if options is None else options
    model = absorb_preprocessing(model) if chosen.absorb else model
    x = model.preprocessing.apply(images)
    input_range = f"{model.graph.input.name}/range"
    tensors: dict[str, Float32] = {
        name: value for name, value in model.tensors.items() if not name.endswith("/range")
    }
    tensors[input_range] = np.array(model.preprocessing.range, np.float32)
    if not chosen.changes_weights:
        found = calibrate(model.graph, tensors, x, chosen.method, chosen.percentile, chosen.threads)
        return replace(model, tensors={**tensors, **found})
    graph, held = foldable(model.graph, tensors)
    held[input_range] = tensors[input_range]
    some = x[:: -(-len(x) // MOMENT_PHOTOS)]
    if chosen.equalise:
        held |= equalise(graph, held, some, chosen.threads)
    if chosen.spread:
        graph, held = spread_pools(graph, held)
    exact = dict(held)
    held |= calibrate(graph, held, x, chosen.method, chosen.percentile, chosen.threads)
    if chosen.clip:
        held |= {name: clip_weights(v) for name, v in held.items() if name.endswith("/weight")}
    if chosen.rounding:
        held |= round_weights(graph, held, patch_moments(graph, exact, some, chosen.threads))
    if chosen.bias:
        held |= correct_bias(graph, held, some, exact, chosen.threads)
    return replace(model, graph=graph, tensors=held)


def foldable(graph: Graph, tensors: dict[str, Float32]) -> tuple[Graph, dict[str, Float32]]:
    """The network with batch norm folded away and a bias in every convolution; dropout stays where it can."""
    if any(isinstance(node, BatchNorm) for node in graph.nodes):
        graph, tensors = fold(graph, tensors)
    held = dict(tensors)
    nodes = []
    for node in graph.nodes:
        if isinstance(node, (Conv2D, DepthwiseConv2D)) and not node.bias:
            node = replace(node, bias=True)
            held[f"{node.name}/bias"] = np.zeros(graph.shapes[node.name][-1], np.float32)
        nodes.append(node)
    return Graph(tuple(nodes)), held
