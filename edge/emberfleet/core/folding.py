"""From the graph that trains to the graph that runs: batch norm folded away, dropout removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from emberfleet.core.arrays import Float32, Float64, Tensors
from emberfleet.core.errors import ConversionError
from emberfleet.core.graph import BatchNorm, Concat, Conv2D, Dropout, Graph, Node


def fold(graph: Graph, tensors: Tensors) -> tuple[Graph, dict[str, Float32]]:
    """Fold every batch norm into the convolutions before it and leave dropout out.

    ``weight'[o] = weight[o] * g[o]``, ``bias'[o] = (bias[o] - mean[o]) * g[o] + beta[o]`` with
    ``g = gamma / sqrt(variance + epsilon)``, in float64, rounded once to float32. A batch norm after
    a Concat of convolutions is split among them. Ranges move with the tensors they belong to.

    Raises:
        ConversionError: a batch norm that no convolution precedes, or one whose convolution
            something else reads too.
        ShapeError: a tensor is missing or has the wrong shape.
    """
    graph.check(tensors)
    held = {name: np.asarray(value, np.float32) for name, value in tensors.items()}
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        if isinstance(node, BatchNorm):
            before = graph.by_name[node.inputs[0]]
            _fold_into(graph, before, node, _affine(node, held), held)
            renamed[node.name] = before.name
        elif isinstance(node, Dropout):
            renamed[node.name] = node.inputs[0]

    def final(name: str) -> str:
        while name in renamed:
            name = renamed[name]
        return name

    kept = [node for node in graph.nodes if node.name not in renamed]
    nodes = [replace(node, inputs=tuple(final(name) for name in node.inputs)) for node in kept]
    folded = Graph(
        tuple(
            replace(node, bias=f"{node.name}/bias" in held) if isinstance(node, Conv2D) else node
            for node in nodes
        )
    )
    ranges = {
        f"{final(name.removesuffix('/range'))}/range": value
        for name, value in held.items()
        if name.endswith("/range") and name.removesuffix("/range") in graph.by_name
    }
    return folded, {**{name: held[name] for name in folded.parameters}, **ranges}


def _affine(node: BatchNorm, held: Mapping[str, Float32]) -> tuple[Float64, Float64]:
    """The batch norm as ``x * factor + offset`` per channel, in float64."""
    gamma, beta, mean, variance = (
        held[f"{node.name}/{part}"].astype(np.float64) for part in ("gamma", "beta", "mean", "variance")
    )
    factor = gamma / np.sqrt(variance + node.epsilon)
    return factor, beta - mean * factor


def _fold_into(
    graph: Graph,
    target: Node,
    norm: BatchNorm,
    affine: tuple[Float64, Float64],
    held: dict[str, Float32],
) -> None:
    """Apply ``x * factor + offset`` to what `target` produces by changing its weights, in place in `held`."""
    factor, offset = affine
    if len(graph.consumers[target.name]) != 1:
        readers = ", ".join(f"'{node.name}'" for node in graph.consumers[target.name])
        raise ConversionError(
            f"batch norm '{norm.name}' cannot be folded: '{target.name}' is read by {readers}, expected "
            "only by the batch norm"
        )
    if isinstance(target, Conv2D):
        weight, bias = f"{target.name}/weight", f"{target.name}/bias"
        before = held[bias].astype(np.float64) if target.bias else np.zeros(target.channels)
        held[weight] = (held[weight].astype(np.float64) * factor[:, None, None, None]).astype(np.float32)
        held[bias] = (before * factor + offset).astype(np.float32)
    elif isinstance(target, Concat):
        start = 0
        for name in target.inputs:
            stop = start + graph.shapes[name][2]
            _fold_into(graph, graph.by_name[name], norm, (factor[start:stop], offset[start:stop]), held)
            start = stop
    else:
        raise ConversionError(
            f"batch norm '{norm.name}' cannot be folded: '{target.name}' is a {target.kind}, expected a "
            "conv2d or a concat of them"
        )
