"""A graph as the kernels run it: nodes fused into units, every tensor given its place.

- A ReLU, clipped or not, that alone reads a convolution or batch norm is taken into it. One that
  alone reads a Concat of convolutions is moved before the Concat, into each of them.
- The inputs of a Concat are written in place, as channels of its storage, where they start at
  whole vectors and nobody else claims them; else they are copied.
- Where training rounds to 8 bits (`points`), a unit has a raw output and a rounded one, unless
  it can do both at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from emberfleet.core.graph import Graph
from emberfleet.core.nodes import (
    BatchNorm,
    ClippedRelu,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    Dropout,
    Input,
    Node,
    Padding,
    Relu,
    Reshape,
)
from emberfleet.engine.opencl.layout import NO_HALO, View, image_shape
from emberfleet.engine.opencl.program import Program


@dataclass(frozen=True, slots=True)
class Unit:
    """One node, or two that run as one."""

    node: Node
    inputs: tuple[str, ...]
    """Tensors read."""
    output: str
    """Name of the tensor produced: that of the last node taken in."""
    relu: bool = False
    point: str | None = None
    """Name of the range by which the output is rounded to 8 bits."""
    ceiling: float = math.inf
    """Of its ReLU."""


def fuse(graph: Graph, points: Mapping[str, str], training: bool) -> tuple[tuple[Unit, ...], dict[str, str]]:
    """The units of a graph in order, and for tensors that are others under a second name, that other.

    Args:
        graph: The network.
        points: Where outputs are rounded: node name to range name; empty: nowhere.
        training: Whether dropout drops.
    """
    aliases: dict[str, str] = {}
    taken: dict[str, str] = {}
    masked: dict[str, float] = {}
    for node in graph.nodes:
        reader = _sole_reader(graph, node.name)
        if not isinstance(reader, (Relu, ClippedRelu)) or node.name in points:
            continue
        if isinstance(node, (Conv2D, DepthwiseConv2D, BatchNorm)):
            taken[node.name] = reader.name
            masked[node.name] = ceiling_of(reader)
        elif isinstance(node, Concat) and all(_only_feeds(graph, name, node) for name in node.inputs):
            if not any(name in points for name in node.inputs):
                taken[node.name] = reader.name
                masked.update(dict.fromkeys(node.inputs, ceiling_of(reader)))
    swallowed = set(taken.values())
    units: list[Unit] = []
    for node in graph.nodes:
        if node.name in swallowed:
            continue
        inputs = tuple(_resolve(aliases, name) for name in node.inputs)
        output = taken.get(node.name, node.name)
        if (isinstance(node, Dropout) and not training) or (
            isinstance(node, Reshape) and _flat(graph, node.inputs[0]) and _flat(graph, node.name)
        ):
            aliases[node.name] = inputs[0]
            continue
        relu, ceiling = node.name in masked, masked.get(node.name, math.inf)
        if isinstance(node, (Relu, ClippedRelu)):
            relu, ceiling = True, ceiling_of(node)
        units.append(Unit(node, inputs, output, relu, points.get(output), ceiling))
    return tuple(units), aliases


def ceiling_of(node: Relu | ClippedRelu) -> float:
    """The largest value that it lets through."""
    return node.ceiling if isinstance(node, ClippedRelu) else math.inf


class Values:
    """Places of all tensors of a forward pass."""

    def __init__(self, program: Program, graph: Graph, units: tuple[Unit, ...], separate_raw: bool) -> None:
        self.program, self.graph = program, graph
        self.units = {unit.output: unit for unit in units}
        self._separate_raw = separate_raw
        self._halos = _halos(units)
        self.slots = _concat_slots(graph, units, program.vector)
        self._views: dict[str, View] = {}
        self._raw: dict[str, View] = {}
        self._vector_input = not all(
            isinstance(unit.node, Conv2D) for unit in units if graph.input.name in unit.inputs
        )

    def shape(self, name: str) -> tuple[int, int, int]:
        """Height, width, channels."""
        return image_shape(self.graph.shapes[name])

    def view(self, name: str) -> View:
        """Where a tensor is read."""
        if name not in self._views:
            self._views[name] = self._place(name)
        return self._views[name]

    def raw(self, name: str) -> View:
        """Where a unit writes before rounding; the same place when it rounds by itself or not at all."""
        unit = self.units[name]
        if unit.point is None or not self._separate_raw or isinstance(unit.node, (BatchNorm, Input)):
            return self.view(name)
        if name not in self._raw:
            inside = [self.halo(child) for child, (parent, _) in self.slots.items() if parent == name]
            self._raw[name] = self.program.images(f"{name}/raw", self.shape(name), widest([NO_HALO, *inside]))
        return self._raw[name]

    def renew(self, label: str) -> None:
        """Forget the storage of this label: the tensors in it are given a new one when next looked up."""
        for places in (self._views, self._raw):
            for name in [name for name, view in places.items() if view.images.label == label]:
                del places[name]

    def in_place(self, unit: Unit) -> bool:
        """Whether the inputs of this Concat are written straight into it."""
        return all(name in self.slots and self.slots[name][0] == unit.output for name in unit.inputs)

    def halo(self, name: str) -> Padding:
        """Zeros that some reader of the tensor, or of what lies inside it, needs around it."""
        inside = [child for child, (parent, _) in self.slots.items() if parent == name]
        return widest([self._halos.get(name, NO_HALO), *(self.halo(child) for child in inside)])

    def _place(self, name: str) -> View:
        if name in self.slots:
            parent, first = self.slots[name]
            return self.raw(parent).slice(first, self.shape(name)[2])
        padded = name != self.graph.input.name or self._vector_input
        return self.program.images(name, self.shape(name), self.halo(name), padded=padded)


def widest(halos: list[Padding]) -> Padding:
    """The largest of each side."""
    top, left, bottom, right = (max(sides) for sides in zip(*halos, strict=True))
    return top, left, bottom, right


def vector_width(graph: Graph, limit: int) -> int:
    """The vector width with the least work: narrow layers waste wide vectors on padding."""

    def work(width: int) -> float:
        total = 0.0
        for node in graph.nodes:
            if isinstance(node, Conv2D):
                h, w, o = graph.shapes[node.name]
                c = graph.shapes[node.inputs[0]][2]
                taps = node.kernel[0] * node.kernel[1]
                total += h * w * taps * (-(-o // width) * c + (-(-c // width) * o if c > 3 else 0))
            elif isinstance(node, DepthwiseConv2D):
                h, w, o = graph.shapes[node.name]
                total += 2 * h * w * node.kernel[0] * node.kernel[1] * -(-o // width)
        return total

    widths = [width for width in (16, 8, 4) if width <= limit]
    return min(widths, key=work)


def _halos(units: tuple[Unit, ...]) -> dict[str, Padding]:
    found: dict[str, Padding] = {}
    for unit in units:
        if isinstance(unit.node, (Conv2D, DepthwiseConv2D)):
            (name,) = unit.inputs
            found[name] = widest([found.get(name, NO_HALO), unit.node.padding])
    return found


def _concat_slots(graph: Graph, units: tuple[Unit, ...], vector: int) -> dict[str, tuple[str, int]]:
    """For each tensor that lies inside a Concat's: that one, and the first channel."""
    produced = {unit.output: unit for unit in units}
    slots: dict[str, tuple[str, int]] = {}
    for unit in units:
        if not isinstance(unit.node, Concat):
            continue
        first = 0
        wanted: dict[str, tuple[str, int]] = {}
        for name in unit.inputs:
            wanted[name] = (unit.output, first)
            first += image_shape(graph.shapes[name])[2]
        free = len(wanted) == len(unit.inputs) and not any(name in slots for name in wanted)
        whole = all(start % vector == 0 for _, start in wanted.values())
        if free and whole and not any(isinstance(produced[name].node, Input) for name in wanted):
            slots.update(wanted)
    return slots


def _sole_reader(graph: Graph, name: str) -> Node | None:
    readers = graph.consumers[name]
    return readers[0] if len(readers) == 1 else None


def _only_feeds(graph: Graph, name: str, reader: Node) -> bool:
    return isinstance(graph.by_name[name], (Conv2D, DepthwiseConv2D)) and graph.consumers[name] == (reader,)


def _flat(graph: Graph, name: str) -> bool:
    return image_shape(graph.shapes[name])[:2] == (1, 1)


def _resolve(aliases: Mapping[str, str], name: str) -> str:
    while name in aliases:
        name = aliases[name]
    return name
