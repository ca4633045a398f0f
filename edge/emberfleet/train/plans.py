"""Which tensors a retraining changes: the classifier, the last fire modules, or all.

A scope names, in order, the parameters that learn, the batch-norm statistics that move with them
and the quantization ranges behind them. What lies before the scope keeps every bit, so an update
carries the scope's tensors alone. The means that stand for a global average pool after calibration
(`calibration.pools`) are no parameters to learn in any scope: a pool stays a pool, and only its ranges move.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from emberfleet.core.errors import ConfigError
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import BatchNorm, Concat, Conv2D, Dropout, Node, Relu
from emberfleet.core.quantization import quantization_points
from emberfleet.train.calibration.pools import spread_pools_of

HEAD: Final = "head"
FULL: Final = "full"
_LAST_FIRES = re.compile(r"last-([1-9][0-9]{0,3})-fires?")


@dataclass(frozen=True, slots=True)
class Scope:
    """The tensors that one retraining changes."""

    name: str
    parameters: tuple[str, ...]
    statistics: tuple[str, ...]
    ranges: tuple[str, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """All of them in the order of an update: parameters, statistics, ranges."""
        return (*self.parameters, *self.statistics, *self.ranges)


def retraining_plans(graph: Graph) -> dict[str, Scope]:
    """Every scope of a network by name: ``head``, ``last-1-fires`` ... and ``full``."""
    plans = {HEAD: _from(graph, HEAD, _head_start(graph))}
    starts = fire_starts(graph)
    for count in range(1, len(starts) + 1):
        name = f"last-{count}-fires"
        plans[name] = _from(graph, name, starts[-count])
    plans[FULL] = _from(graph, FULL, 0)
    return plans


def scope_named(graph: Graph, name: str) -> Scope:
    """One scope of a network.

    Raises:
        ConfigError: no such scope, or more fires than the network has; names those it has.
    """
    plans = retraining_plans(graph)
    found = _LAST_FIRES.fullmatch(name)
    wanted = f"last-{found[1]}-fires" if found else name
    if wanted not in plans:
        raise ConfigError(f"scope '{name}' is unknown; this network has: {', '.join(plans)}")
    return plans[wanted]


def fire_starts(graph: Graph) -> tuple[int, ...]:
    """For each fire module, in order, the index of its squeeze convolution among the nodes."""
    places = {node.name: index for index, node in enumerate(graph.nodes)}
    starts: list[int] = []
    for node in graph.nodes:
        squeeze = _squeeze_of(graph, node) if isinstance(node, Concat) else None
        if squeeze is not None:
            starts.append(places[squeeze.name])
    return tuple(starts)


def _squeeze_of(graph: Graph, concat: Concat) -> Conv2D | None:
    """The convolution whose output all branches of a concat read, if that is how it is built."""
    branches = [_convolution_behind(graph, name) for name in concat.inputs]
    sources = {branch.inputs[0] for branch in branches if branch is not None}
    if None in branches or len(sources) != 1:
        return None
    return _convolution_behind(graph, sources.pop())


def _convolution_behind(graph: Graph, name: str) -> Conv2D | None:
    node: Node = graph.by_name[name]
    while isinstance(node, (Relu, BatchNorm, Dropout)):
        node = graph.by_name[node.inputs[0]]
    return node if isinstance(node, Conv2D) else None


def _head_start(graph: Graph) -> int:
    return max(index for index, node in enumerate(graph.nodes) if isinstance(node, Conv2D))


def _from(graph: Graph, name: str, start: int) -> Scope:
    """The scope of all nodes from index `start` on; the input's range never moves."""
    touched = {node.name for node in graph.nodes[start:]} - {graph.input.name}

    learning = touched - set(spread_pools_of(graph))

    def inside(tensors: Mapping[str, object]) -> tuple[str, ...]:
        return tuple(tensor for tensor in tensors if tensor.rsplit("/", 1)[0] in learning)

    points = quantization_points(graph)
    ranges = dict.fromkeys(points[node.name] for node in graph.nodes if node.name in points)
    before = {points[node] for node in points if node not in touched}
    return Scope(
        name=name,
        parameters=inside(graph.parameters),
        statistics=inside(graph.state),
        ranges=tuple(tensor for tensor in ranges if tensor not in before),
    )
