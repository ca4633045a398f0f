"""Where every value and every gradient of a graph lives.

Values. The inputs of a concat are written straight into their channels of its tensor; a ReLU
works in the place of its input; a reshape, and dropout outside training, is a view. Gradients
run the other way: the last reader of a tensor is the first to write its gradient, the others add.
Where an operation's gradient may be computed in place (`engine.ops.OPS`), the input's gradient
takes the output's place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from emberfleet.core.graph import Graph
from emberfleet.core.nodes import BatchNorm, ClippedRelu, Concat, Dropout, Node, Relu, Reshape, Softmax
from emberfleet.engine.numpy_backend.workspace import Slot, Workspace
from emberfleet.engine.ops import OPS


class Delivery(Enum):
    """How a node hands the gradient of one input on."""

    NONE = "nothing upstream learns"
    SHARED = "it is computed in the place of the output's gradient"
    WRITE = "it is the first contribution"
    ADD = "it is added to what later readers wrote"


@dataclass(frozen=True, slots=True)
class Gradients:
    """Places of the gradients, by tensor; and each node's way to deliver, by node and input."""

    slots: Mapping[str, Slot]
    deliveries: Mapping[str, tuple[Delivery, ...]]


def place_values(graph: Graph, batch: int, workspace: Workspace, training: bool) -> dict[str, Slot]:
    """A slot for the output of every node."""
    slots: dict[str, Slot] = {}
    for node in reversed(graph.nodes):
        if node.name not in slots:
            slots[node.name] = workspace.slot(node.name, (batch, *graph.shapes[node.name]))
        here = slots[node.name]
        if isinstance(node, Concat):
            start = 0
            for name in node.inputs:
                channels = graph.shapes[name][-1]
                slots.setdefault(name, here.part(start, channels))
                start += channels
        elif isinstance(node, Reshape) and here.whole:
            slots.setdefault(node.inputs[0], here.reshaped((batch, *graph.shapes[node.inputs[0]])))
        elif (isinstance(node, Dropout) and not training) or (
            _in_place(node, training) and overwritable(graph, node.inputs[0], training)
        ):
            slots.setdefault(node.inputs[0], here)
    return slots


def _in_place(node: Node, training: bool) -> bool:
    return isinstance(node, (Relu, ClippedRelu)) or (not training and isinstance(node, (BatchNorm, Softmax)))


def overwritable(graph: Graph, name: str, training: bool) -> bool:
    """Whether the only reader of a tensor may write its own result over it."""
    node = graph.by_name[name]
    if len(graph.consumers[name]) != 1 or (training and OPS[node.kind].reads_output):
        return False
    if isinstance(node, (Concat, Reshape, Dropout)):
        return all(overwritable(graph, source, training) for source in node.inputs)
    return True


def needs_gradient(graph: Graph, trainable: frozenset[str]) -> frozenset[str]:
    """Names of the tensors above which, or at which, something learns."""
    found: set[str] = set()
    for node in graph.nodes:
        learns = any(name in trainable for name in node.parameters(graph.input_shapes(node)))
        if learns or any(name in found for name in node.inputs):
            found.add(node.name)
    return frozenset(found)


def place_gradients(graph: Graph, batch: int, workspace: Workspace, wanted: frozenset[str]) -> Gradients:
    """A slot for the gradient of every tensor in `wanted`, and who writes and who adds."""
    slots: dict[str, Slot] = {}
    deliveries: dict[str, tuple[Delivery, ...]] = {}
    if graph.logits in wanted:
        slots[graph.logits] = workspace.slot(f"d{graph.logits}", (batch, *graph.shapes[graph.logits]))
    for node in reversed(graph.nodes):
        if isinstance(node, Softmax) or node.name not in slots:
            continue
        ways: list[Delivery] = []
        start = 0
        for index, name in enumerate(node.inputs):
            shape = (batch, *graph.shapes[name])
            if name not in wanted:
                ways.append(Delivery.NONE)
            elif name in slots:
                ways.append(Delivery.ADD)
            else:
                shared = _shared_place(node, index, slots[node.name], shape, start)
                slots[name] = shared or workspace.slot(f"d{name}", shape)
                ways.append(Delivery.SHARED if shared else Delivery.WRITE)
            start += shape[-1]
        deliveries[node.name] = tuple(ways)
    return Gradients(slots, deliveries)


def _shared_place(node: Node, index: int, here: Slot, shape: tuple[int, ...], start: int) -> Slot | None:
    """The input's place within the output's gradient, where the operation allows it."""
    if isinstance(node, Concat):
        return here.part(start, shape[-1])
    if index != 0 or not OPS[node.kind].in_place_gradient:
        return None
    if isinstance(node, Reshape):
        return here.reshaped(shape) if here.whole else None
    return here
