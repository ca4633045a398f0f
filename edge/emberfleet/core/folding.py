"""From the graph that trains to the graph that runs: batch norm folded away, dropout removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from emberfleet.core.arrays import Float32, Float64, Tensors
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import BatchNorm, Concat, Conv2D, DepthwiseConv2D, Dropout, Node


def fold(graph: Graph, tensors: Tensors) -> tuple[Graph, dict[str, Float32]]:
    """Fold every batch norm that `folds` into the convolutions before it, and leave dropout out.

    ``weight'[o] = weight[o] * g[o]``, ``bias'[o] = (bias[o] - mean[o]) * g[o] + beta[o]`` with
    ``g = gamma / sqrt(variance + epsilon)``, in float64, rounded once to float32. A batch norm after
    a Concat of convolutions is split among them; one that follows nothing that could take it in stays.
    Ranges move with the tensors they belong to.

    Raises:
        ShapeError: a tensor is missing or has the wrong shape.
    """
    graph.check(tensors)
    held = {name: np.asarray(value, np.float32) for name, value in tensors.items()}
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        if isinstance(node, BatchNorm) and folds(graph, node):
            before = graph.by_name[node.inputs[0]]
            _fold_into(graph, before, _affine(node, held), held)
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
            replace(node, bias=f"{node.name}/bias" in held)
            if isinstance(node, (Conv2D, DepthwiseConv2D))
            else node
            for node in nodes
        )
    )
    ranges = {
        f"{final(name.removesuffix('/range'))}/range": value
        for name, value in held.items()
        if name.endswith("/range") and name.removesuffix("/range") in graph.by_name
    }
    return folded, {**{name: held[name] for name in (*folded.parameters, *folded.state)}, **ranges}


def without_norms(graph: Graph, tensors: Tensors) -> tuple[Graph, dict[str, Float32]]:
    """`fold`, and each batch norm that stays as a depthwise convolution of one pixel, under its name.

    Raises:
        ShapeError: a tensor is missing or has the wrong shape.
    """
    folded, held = fold(graph, tensors)
    nodes: list[Node] = []
    for node in folded.nodes:
        if isinstance(node, BatchNorm):
            factor, offset = _affine(node, held)
            for part in ("gamma", "beta", "mean", "variance"):
                del held[f"{node.name}/{part}"]
            held[f"{node.name}/weight"] = factor.astype(np.float32).reshape(-1, 1, 1, 1)
            held[f"{node.name}/bias"] = offset.astype(np.float32)
            nodes.append(DepthwiseConv2D(node.name, node.inputs, kernel=(1, 1)))
        else:
            nodes.append(node)
    return Graph(tuple(nodes)), held


def folds(graph: Graph, norm: BatchNorm) -> bool:
    """Whether a batch norm is the only reader of a convolution, or of a Concat of such."""
    return _scales(graph, graph.by_name[norm.inputs[0]])


def _scales(graph: Graph, target: Node) -> bool:
    if len(graph.consumers[target.name]) != 1:
        return False
    if isinstance(target, Concat):
        return all(_scales(graph, graph.by_name[name]) for name in target.inputs)
    return isinstance(target, (Conv2D, DepthwiseConv2D))


def _affine(node: BatchNorm, held: Mapping[str, Float32]) -> tuple[Float64, Float64]:
    """The batch norm as ``x * factor + offset`` per channel, in float64."""
    gamma, beta, mean, variance = (
        held[f"{node.name}/{part}"].astype(np.float64) for part in ("gamma", "beta", "mean", "variance")
    )
    factor = gamma / np.sqrt(variance + node.epsilon)
    return factor, beta - mean * factor


def _fold_into(graph: Graph, target: Node, affine: tuple[Float64, Float64], held: dict[str, Float32]) -> None:
    """Apply ``x * factor + offset`` to what `target` produces by changing its weights, in place in `held`."""
    factor, offset = affine
    if isinstance(target, Concat):
        start = 0
        for name in target.inputs:
            stop = start + graph.shapes[name][2]
            _fold_into(graph, graph.by_name[name], (factor[start:stop], offset[start:stop]), held)
            start = stop
        return
    weight, bias = f"{target.name}/weight", f"{target.name}/bias"
    before = held[bias].astype(np.float64) if bias in held else np.zeros(len(factor))
    held[weight] = (held[weight].astype(np.float64) * factor[:, None, None, None]).astype(np.float32)
    held[bias] = (before * factor + offset).astype(np.float32)
