"""The network as a value: named nodes in NHWC, validated once, shapes inferred, JSON and back.

A graph is a tuple of frozen nodes in topological order, the input first. It holds no weights;
those are tensors by name (`core.tensors`), and `Graph.parameters` says which names and shapes
a graph needs. Shapes leave out the batch: an image is ``(H, W, C)``, the output is ``(K,)``
for one class per image or ``(P, K)`` for one class at each of P positions (a 14-character
code is ``(14, alphabet)``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from emberfleet.core.errors import FormatError, ShapeError
from emberfleet.core.nodes import KINDS, Input, Node, Shape, Softmax

MAX_NODES = 4096
MAX_EXTENT = 1 << 20
"""Largest length of any axis: a graph from outside cannot ask for absurd memory by one number."""
MAX_ELEMENTS = 1 << 31


@dataclass(frozen=True)
class Graph:
    """A validated network: build it with nodes in topological order, the input first.

    Raises:
        ShapeError: names that repeat or are unknown, nodes whose inputs do not fit, an output
            that is neither ``(K,)`` nor ``(P, K)``.
    """

    nodes: tuple[Node, ...]
    shapes: Mapping[str, Shape] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", _infer_shapes(self.nodes))

    @property
    def input(self) -> Input:
        """The one input node."""
        node = self.nodes[0]
        assert isinstance(node, Input)
        return node

    @property
    def output(self) -> Node:
        """The last node; its tensor is what the network returns."""
        return self.nodes[-1]

    @property
    def logits(self) -> str:
        """Name of the tensor that the loss reads: the output, or what its softmax reads."""
        return self.output.inputs[0] if isinstance(self.output, Softmax) else self.output.name

    @property
    def positions(self) -> int:
        """P: how many classes one image carries (1 for plain classification)."""
        shape = self.shapes[self.output.name]
        return shape[0] if len(shape) == 2 else 1

    @property
    def classes(self) -> int:
        """K: how many classes each position chooses from."""
        return self.shapes[self.output.name][-1]

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """Nodes by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """For each node's name, the nodes that read its tensor, in order."""
        found: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in node.inputs:
                found[name].append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    def input_shapes(self, node: Node) -> tuple[Shape, ...]:
        """Shapes of a node's inputs, in order."""
        return tuple(self.shapes[name] for name in node.inputs)

    @cached_property
    def parameters(self) -> Mapping[str, Shape]:
        """Trainable tensors by name, in the order of the nodes: the order of every update."""
        return {k: v for n in self.nodes for k, v in n.parameters(self.input_shapes(n)).items()}

    @cached_property
    def state(self) -> Mapping[str, Shape]:
        """Running statistics by name, in the order of the nodes (quantization ranges not among them)."""
        return {k: v for n in self.nodes for k, v in n.state(self.input_shapes(n)).items()}

    def check(self, tensors: Mapping[str, Any]) -> None:
        """Raise `ShapeError` unless every parameter and running statistic is there, in its shape."""
        for name, shape in {**self.parameters, **self.state}.items():
            if name not in tensors:
                raise ShapeError(f"tensor '{name}' is missing, expected one of shape {shape}")
            if tuple(tensors[name].shape) != shape:
                raise ShapeError(f"tensor '{name}': shape is {tuple(tensors[name].shape)}, expected {shape}")

    def to_json(self) -> str:
        """The graph as JSON text, the same bytes for the same graph."""
        nodes = [{"kind": n.kind, **{f.name: getattr(n, f.name) for f in fields(n)}} for n in self.nodes]
        return json.dumps({"format": 1, "nodes": nodes}, indent=1)

    @staticmethod
    def from_json(text: str | bytes) -> Graph:
        """Read a graph back.

        Raises:
            FormatError: not the JSON of a graph, or a graph that does not validate.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"graph: not JSON: {error}") from error
        if not isinstance(document, dict) or document.get("format") != 1:
            raise FormatError("graph: expected a JSON object with format 1")
        entries = document.get("nodes")
        if not isinstance(entries, list) or not 0 < len(entries) <= MAX_NODES:
            raise FormatError(f"graph: expected 1 to {MAX_NODES} nodes")
        try:
            return Graph(tuple(_read_node(entry) for entry in entries))
        except ShapeError as error:
            raise FormatError(f"graph: {error}") from error


def without_softmax(graph: Graph) -> Graph:
    """The graph up to its logits."""
    return Graph(graph.nodes[:-1]) if isinstance(graph.output, Softmax) else graph


def _infer_shapes(nodes: Iterable[Node]) -> Mapping[str, Shape]:
    shapes: dict[str, Shape] = {}
    order = tuple(nodes)
    if not order or not isinstance(order[0], Input):
        raise ShapeError("a graph starts with its input node")
    for index, node in enumerate(order):
        if not node.name or node.name in shapes:
            raise ShapeError(f"node {index} ({node.kind}): name '{node.name}' is empty or taken")
        if isinstance(node, Input) and index > 0:
            raise ShapeError(f"node '{node.name}': a graph has one input")
        wanted = "two or more" if node.arity is None else str(node.arity)
        if len(node.inputs) != node.arity if node.arity is not None else len(node.inputs) < 2:
            raise ShapeError(f"{node.kind} '{node.name}': has {len(node.inputs)} inputs, expected {wanted}")
        for name in node.inputs:
            if name not in shapes:
                raise ShapeError(f"{node.kind} '{node.name}': input '{name}' is not an earlier node")
        if isinstance(node, Softmax) and index != len(order) - 1:
            raise ShapeError(f"softmax '{node.name}': only the last node may be a softmax")
        shape = node.infer(tuple(shapes[name] for name in node.inputs))
        if any(not 0 < extent <= MAX_EXTENT for extent in shape) or math.prod(shape) > MAX_ELEMENTS:
            raise ShapeError(f"{node.kind} '{node.name}': shape {shape} is out of bounds")
        for name, wide in node.parameters(tuple(shapes[name] for name in node.inputs)).items():
            if math.prod(wide) > MAX_ELEMENTS:
                raise ShapeError(f"tensor '{name}': shape {wide} is out of bounds")
        shapes[node.name] = shape
    used = {name for node in order for name in node.inputs}
    loose = [node.name for node in order[:-1] if node.name not in used]
    if loose:
        raise ShapeError(f"nodes that nothing reads: {', '.join(loose)}")
    if len(shapes[order[-1].name]) > 2:
        raise ShapeError(
            f"output '{order[-1].name}': shape is {shapes[order[-1].name]}, expected classes (K,) or "
            "positions x classes (P, K)"
        )
    return shapes


def _read_node(entry: object) -> Node:
    """One node from its JSON object, every field checked for its type."""
    if not isinstance(entry, dict):
        raise FormatError(f"graph: a node is an object, found {type(entry).__name__}")
    cls = KINDS.get(str(entry.get("kind")))
    if cls is None:
        known = ", ".join(sorted(KINDS))
        raise FormatError(f"graph: unknown kind {entry.get('kind')!r}; known kinds: {known}")
    values: dict[str, Any] = {}
    for slot in fields(cls):
        if slot.name not in entry:
            raise FormatError(f"graph: node {entry.get('name')!r} ({cls.kind}) lacks '{slot.name}'")
        values[slot.name] = _read_field(str(slot.type), entry[slot.name], f"{cls.kind} '{slot.name}'")
    unknown = set(entry) - set(values) - {"kind"}
    if unknown:
        raise FormatError(f"graph: node {entry.get('name')!r} has unknown fields {sorted(unknown)}")
    return cls(**values)


def _read_field(kind: str, value: object, where: str) -> object:
    """Check one JSON value against the field's annotation; lists become tuples."""
    if kind in ("str", "bool", "int") and type(value).__name__ == kind:
        return value
    if kind == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise FormatError(f"graph: {where}: an integer that no float can hold") from error
    if kind == "tuple[str, ...]" and isinstance(value, list) and all(type(v) is str for v in value):
        return tuple(value)
    lengths = {"tuple[int, int]": 2, "Padding": 4, "Shape": None}
    if kind in lengths and isinstance(value, list) and all(type(v) is int for v in value):
        if lengths[kind] in (None, len(value)):
            return tuple(value)
    raise FormatError(f"graph: {where}: found {value!r}, expected {kind}")
