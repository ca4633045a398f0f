"""Cross-layer equalisation: channels of one tensor brought to like ranges without changing the function.

A ReLU, a max or average pool and a concat let a positive factor per channel through. So dividing channel c of
what a convolution produces by s[c] (its weights and bias), and multiplying what every convolution behind it
does with channel c by s[c], changes nothing in real numbers, and much in 8 bits, where all channels of a
tensor share one scale.

Source: Nagel et al. 2019, arXiv:1906.04721, section 4.1; here between the range of the activations, since
weights have one scale per output channel, and the weights that read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from emberfleet.core.arrays import Float32, Float64, Real, Tensors
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import (
    AveragePool,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    Dropout,
    GlobalAveragePool,
    MaxPool,
    Node,
    Relu,
)
from emberfleet.engine.numpy_backend.activations import activations
from emberfleet.train.calibration.ranges import batch_of

LARGEST_FACTOR = 16.0
"""A channel is brought up or down by no more: a channel that hardly ever speaks stays a quiet one."""
PASSES = 2

_HOMOGENEOUS = (Relu, MaxPool, AveragePool, GlobalAveragePool, Dropout)


def equalise(graph: Graph, tensors: Tensors, x: Float32, threads: int | None = None) -> dict[str, Float32]:
    """Weights and biases of the same function with more equal channels: those of `equalised`."""
    return equalised(graph, tensors, x, threads).tensors


class Equalised(NamedTuple):
    """The same function with more equal channels."""

    tensors: dict[str, Float32]
    factors: dict[str, Float64]
    """What each output channel of a convolution was divided by, ``(O,)``, by the convolution's name."""


def equalised(graph: Graph, tensors: Tensors, x: Float32, threads: int | None = None) -> Equalised:
    """Equalise, and say by how much.

    Args:
        graph: A folded network (`core.folding.fold`).
        tensors: Its parameters.
        x: ``(N, H, W, C)`` preprocessed images that the channels' ranges are taken from.
        threads: Most threads to use; None: EMBERFLEET_THREADS, else no bound.
    """
    held = {name: np.array(tensors[name], np.float32) for name in graph.parameters}
    pairs = {
        node.name: found
        for node in graph.nodes
        if isinstance(node, (Conv2D, DepthwiseConv2D)) and (found := readers_of(graph, node.name)) is not None
    }
    peaks = _channel_peaks(graph, held, x, pairs, threads)
    factors = {name: np.ones(len(peak)) for name, peak in peaks.items()}
    for _ in range(PASSES):
        for name, readers in pairs.items():
            factor = _factor(peaks[name], _reading_weights(graph, held, readers, len(peaks[name])))
            peaks[name] = peaks[name] / factor
            factors[name] = factors[name] * factor
            _divide(held, name, factor)
            for reader, start in readers:
                _multiply(graph, held, reader, start, factor)
    return Equalised(held, factors)


def readers_of(graph: Graph, name: str) -> list[tuple[str, int]] | None:
    """Convolutions that read a tensor through homogeneous nodes, and the channel where it begins there.

    Returns:
        None where something else reads it, so that no factor can be taken back.
    """
    found: list[tuple[str, int]] = []
    if name == graph.output.name:
        return None
    for reader in graph.consumers[name]:
        if isinstance(reader, (Conv2D, DepthwiseConv2D)):
            found.append((reader.name, 0))
            continue
        if not isinstance(reader, (*_HOMOGENEOUS, Concat)):
            return None
        beyond = readers_of(graph, reader.name)
        if beyond is None:
            return None
        for start in _starts(graph, reader, name):
            found += [(conv, start + more) for conv, more in beyond]
    return found


def _starts(graph: Graph, reader: Node, name: str) -> Iterator[int]:
    """Where the channels of `name` begin in what `reader` makes; once for each time that it reads them."""
    start = 0
    for source in reader.inputs:
        if source == name:
            yield start
        start += graph.shapes[source][-1]


def _channel_peaks(
    graph: Graph,
    held: Mapping[str, Float32],
    x: Float32,
    pairs: Mapping[str, object],
    threads: int | None,
) -> dict[str, Float64]:
    """The largest positive value of each channel of the tensors named, as what a ReLU lets through."""
    peaks = {name: np.zeros(graph.shapes[name][-1]) for name in pairs}

    def look(node: str, values: Real) -> Real:
        if node in peaks:
            peaks[node] = np.maximum(peaks[node], values.reshape(-1, values.shape[-1]).max(axis=0))
        return values

    for start in range(0, len(x), batch_of(graph)):
        activations(graph, held, x[start : start + batch_of(graph)], (), threads, look)
    return peaks


def _factor(peaks: Float64, weights: Float64) -> Float64:
    """``s`` that makes ``peaks / s`` and ``weights * s`` alike in shape, 1 for the median channel."""
    usable = (peaks > 0) & (weights > 0)
    factor = np.ones(len(peaks))
    if usable.any():
        root = np.sqrt(peaks[usable] / weights[usable])
        factor[usable] = np.clip(root / np.median(root), 1.0 / LARGEST_FACTOR, LARGEST_FACTOR)
    return factor


def _reading_weights(
    graph: Graph, held: Mapping[str, Float32], readers: list[tuple[str, int]], channels: int
) -> Float64:
    """The largest weight that reads each channel, in units of its output channel's largest."""
    largest = np.zeros(channels)
    for reader, start in readers:
        weight = np.abs(held[f"{reader}/weight"].astype(np.float64))
        whole = weight.reshape(len(weight), -1).max(axis=1)
        relative = weight / np.where(whole > 0, whole, 1.0)[:, None, None, None]
        node = graph.by_name[reader]
        if isinstance(node, DepthwiseConv2D):
            of_inputs = relative.reshape(-1, node.multiplier * relative[0].size).max(axis=1)
        else:
            of_inputs = relative.max(axis=(0, 1, 2))
        largest = np.maximum(largest, of_inputs[start : start + channels])
    return largest


def _divide(held: dict[str, Float32], name: str, factor: Float64) -> None:
    weight, bias = f"{name}/weight", f"{name}/bias"
    held[weight] = (held[weight] / factor[:, None, None, None]).astype(np.float32)
    if bias in held:
        held[bias] = (held[bias] / factor).astype(np.float32)


def _multiply(graph: Graph, held: dict[str, Float32], name: str, start: int, factor: Float64) -> None:
    weight = held[f"{name}/weight"].astype(np.float64)
    node = graph.by_name[name]
    if isinstance(node, DepthwiseConv2D):
        rows = slice(start * node.multiplier, (start + len(factor)) * node.multiplier)
        weight[rows] *= np.repeat(factor, node.multiplier)[:, None, None, None]
    else:
        weight[..., start : start + len(factor)] *= factor
    held[f"{name}/weight"] = weight.astype(np.float32)
