"""The values inside a network: for calibration and for pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias, cast

import numpy as np

from emberfleet.core.arrays import Float32, Real, Tensors
from emberfleet.core.errors import ShapeError
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import (
    Add,
    AveragePool,
    BatchNorm,
    ClippedRelu,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    GlobalAveragePool,
    Input,
    MaxPool,
    Node,
    Relu,
    Reshape,
    Softmax,
)
from emberfleet.engine.batches import check_images
from emberfleet.engine.numpy_backend.conv import Window, conv2d_forward
from emberfleet.engine.numpy_backend.depthwise import depthwise_conv2d
from emberfleet.engine.numpy_backend.loss import softmax
from emberfleet.engine.numpy_backend.pool import (
    average_pool_forward,
    global_average_pool_forward,
    max_pool_forward,
    pixels_inside,
)
from emberfleet.engine.numpy_backend.threads import Threads

Alter: TypeAlias = Callable[[str, Real], Real]
"""Takes a node's name and its tensor; gives back what the nodes behind it read, the same shape."""


def activations(
    graph: Graph,
    tensors: Tensors,
    x: Float32,
    names: Iterable[str],
    threads: int | None = None,
    alter: Alter | None = None,
) -> dict[str, Float32]:
    """What the named nodes produce for a batch of images, as in inference: nothing is rounded.

    Args:
        graph: The network.
        tensors: Its parameters and running statistics; their type is that of the results.
        x: ``(n, H, W, C)``.
        names: Nodes; their tensors come back by name, each ``(n, ...)``.
        threads: Most threads BLAS may use; None: EMBERFLEET_THREADS, else no bound.
        alter: Sees every node's tensor as soon as it is there, and may replace it: to round single
            tensors, or to look at all of them without keeping any.

    Raises:
        ShapeError: `x` or a tensor does not fit, or a name is not a node.
    """
    graph.check(tensors)
    check_images(graph, x)
    wanted = frozenset(names)
    unknown = sorted(wanted - set(graph.by_name))
    if unknown:
        raise ShapeError(f"the graph has no node '{unknown[0]}'")
    with Threads(threads).bounded():
        return _compute(graph, tensors, x, wanted, alter)


def _compute(
    graph: Graph, tensors: Tensors, x: Float32, wanted: frozenset[str], alter: Alter | None
) -> dict[str, Float32]:
    kind = next(iter(tensors.values())).dtype if tensors else x.dtype
    values: dict[str, Real] = {}
    found: dict[str, Float32] = {}
    readers = {name: len(nodes) for name, nodes in graph.consumers.items()}
    for node in graph.nodes:
        y = x.astype(kind) if isinstance(node, Input) else _forward(graph, node, values, tensors)
        if alter is not None:
            y = alter(node.name, y)
        values[node.name] = y
        if node.name in wanted:
            found[node.name] = cast("Float32", y)
        for name in node.inputs:
            readers[name] -= 1
            if readers[name] == 0:
                del values[name]
    return found


def _forward(graph: Graph, node: Node, values: dict[str, Real], tensors: Tensors) -> Real:
    x = values[node.inputs[0]]
    shape = (len(x), *graph.shapes[node.name])
    match node:
        case Conv2D():
            bias = tensors[f"{node.name}/bias"] if node.bias else None
            return conv2d_forward(x, tensors[f"{node.name}/weight"], bias, Window.of(node))
        case DepthwiseConv2D():
            found = depthwise_conv2d(x, tensors[f"{node.name}/weight"], Window.of(node))
            return found + tensors[f"{node.name}/bias"] if node.bias else found
        case BatchNorm():
            factor = tensors[f"{node.name}/gamma"] / np.sqrt(tensors[f"{node.name}/variance"] + node.epsilon)
            offset = tensors[f"{node.name}/beta"] - tensors[f"{node.name}/mean"] * factor
            y: Real = x * factor.astype(x.dtype) + offset.astype(x.dtype)
            return y
        case Relu():
            positive: Real = np.maximum(x, 0)
            return positive
        case ClippedRelu():
            return np.clip(x, 0, x.dtype.type(node.ceiling))
        case Add():
            return x + values[node.inputs[1]]
        case Concat():
            return np.concatenate([values[name] for name in node.inputs], axis=-1)
        case Reshape():
            return x.reshape(shape)
        case MaxPool() | AveragePool() | GlobalAveragePool() | Softmax():
            out: Real = np.empty(shape, x.dtype)
            if isinstance(node, MaxPool):
                max_pool_forward(x, Window.of(node).taps(x.shape[1:3]), out)
            elif isinstance(node, AveragePool):
                window = Window.of(node)
                taps, counts = window.taps(x.shape[1:3]), pixels_inside(window, x.shape[1:])
                average_pool_forward(x, taps, counts.astype(x.dtype), out)
            elif isinstance(node, Softmax):
                softmax(x, out)
            else:
                global_average_pool_forward(x, out)
            return out
    return x
