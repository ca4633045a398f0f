"""Bias correction: the mean that rounding shifts is put back, channel by channel.

Rounding a layer's weights and inputs moves the mean of what it produces. The bias takes the difference,
layer after layer, each with everything before it already rounded and corrected.

Source: Nagel et al. 2019, arXiv:1906.04721, section 4.2, with the means observed on images.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emberfleet.core.arrays import Float32, Float64, Real, Tensors
from emberfleet.core.errors import ShapeError
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D, DepthwiseConv2D
from emberfleet.core.quantization import (
    fake_quantize,
    fake_quantize_weights,
    quantization_points,
    range_params,
)
from emberfleet.engine.numpy_backend.activations import activations
from emberfleet.train.calibration.ranges import batch_of


def correct_bias(
    graph: Graph,
    tensors: Tensors,
    x: Float32,
    reference: Tensors | None = None,
    threads: int | None = None,
) -> dict[str, Float32]:
    """Biases with which the rounded network has the means of the one in floating point.

    Args:
        graph: A folded network whose convolutions all have a bias.
        tensors: Its parameters and all ranges.
        x: ``(N, H, W, C)`` preprocessed images; as many of them are used as fit into one batch.
        reference: The parameters whose means are restored; None: those of `tensors`, before rounding.
        threads: Most threads to use; None: EMBERFLEET_THREADS, else no bound.

    Returns:
        The parameters of `tensors` with new biases.
    """
    if not len(x):
        raise ShapeError("bias correction needs at least one image")
    images = x[:: -(-len(x) // batch_of(graph))]
    corrected = {name: np.array(tensors[name], np.float32) for name in graph.parameters}
    convolutions = {node.name for node in graph.nodes if isinstance(node, (Conv2D, DepthwiseConv2D))}
    wanted: dict[str, Float64] = {}

    def note(node: str, values: Real) -> Real:
        if node in convolutions:
            wanted[node] = _means(values)
        return values

    before = tensors if reference is None else reference
    activations(graph, {name: before[name] for name in graph.parameters}, images, (), threads, note)
    rounded = {
        name: fake_quantize_weights(value) if name.endswith("/weight") else value
        for name, value in corrected.items()
    }
    rounding = round_activations(graph, tensors)

    def restore(node: str, values: Real) -> Real:
        if node in convolutions:
            shift = (wanted[node] - _means(values)).astype(np.float32)
            corrected[f"{node}/bias"] = corrected[f"{node}/bias"] + shift
            values = values + shift
        return rounding(node, values)

    activations(graph, rounded, images, (), threads, restore)
    return corrected


def round_activations(graph: Graph, ranges: Tensors) -> Callable[[str, Real], Real]:
    """What `activations` alters to see what 8 bits see: every point rounded to its range."""
    params = {node: range_params(ranges, name) for node, name in quantization_points(graph).items()}

    def alter(node: str, values: Real) -> Real:
        return fake_quantize(values, params[node]) if node in params else values

    return alter


def _means(values: Real) -> Float64:
    means: Float64 = values.reshape(-1, values.shape[-1]).mean(axis=0, dtype=np.float64)
    return means
