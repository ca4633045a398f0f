"""Records the backward pass: gradients of tensors share the arena, those of parameters have their buffer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from emberfleet.core.graph import Graph
from emberfleet.core.nodes import (
    Add,
    AveragePool,
    BatchNorm,
    ClippedRelu,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    Dropout,
    GlobalAveragePool,
    MaxPool,
    Padding,
    Relu,
    Reshape,
)
from emberfleet.engine.opencl import batch_norm, conv2d, depthwise, elementwise, pool
from emberfleet.engine.opencl.forward import Forward, window_of
from emberfleet.engine.opencl.layout import NO_HALO, Images, View
from emberfleet.engine.opencl.network import Unit, Values, widest
from emberfleet.engine.opencl.optimizer import Gradient
from emberfleet.engine.opencl.program import Program
from emberfleet.engine.opencl.recall import Recall
from emberfleet.engine.opencl.weights import PackedWeights


@dataclass(frozen=True, slots=True)
class Frame:
    """What the convolution back to the input needs around and between the pixels of dy."""

    halo: Padding = NO_HALO
    spread: tuple[int, int] = (1, 1)


def upstream(graph: Graph, learning: frozenset[str]) -> frozenset[str]:
    """Nodes whose output depends on a parameter that learns: where gradients are wanted."""
    found: set[str] = set()
    for node in graph.nodes:
        own = node.parameters(graph.input_shapes(node))
        if learning.intersection(own) or found.intersection(node.inputs):
            found.add(node.name)
    return frozenset(found)


class Gradients:
    """Places of the gradients of tensors, each written first and added to afterwards."""

    def __init__(self, program: Program, graph: Graph, values: Values, wanted: frozenset[str]) -> None:
        self.program, self.graph, self.values, self.wanted = program, graph, values, wanted
        self._views: dict[str, View] = {}
        self._written: set[str] = set()
        self._overwrites = self._pairs_in_one_place()

    def view(self, name: str) -> View:
        """Where the gradient of a tensor lies."""
        if name not in self._views:
            if name in self.values.slots:
                parent, first = self.values.slots[name]
                self._views[name] = self.view(parent).slice(first, self.values.shape(name)[2])
            elif name in self._overwrites:
                self._views[name] = self.view(self._overwrites[name])
            else:
                frame = self._frame(name)
                self._views[name] = self.program.images(
                    f"d {name}", self.values.shape(name), frame.halo, frame.spread
                )
        return self._views[name]

    def target(self, name: str) -> tuple[View, bool]:
        """Where to write a contribution to a tensor's gradient, and whether to add to what is there."""
        leaves = self._leaves(name)
        written = [leaf for leaf in leaves if leaf in self._written]
        if written:
            for leaf in leaves:
                if leaf not in self._written:
                    elementwise.clear(self.program, self.view(leaf))
        self._written.update(leaves)
        return self.view(name), bool(written)

    def own_frame(self, unit: Unit) -> Frame:
        """What the unit that produced a tensor needs of the tensor's gradient."""
        node = unit.node
        if not isinstance(node, (Conv2D, DepthwiseConv2D)) or unit.inputs[0] not in self.wanted:
            return Frame()
        h, w, _ = self.values.shape(unit.inputs[0])
        ho, wo, _ = self.values.shape(unit.output)
        if isinstance(node, DepthwiseConv2D):
            return Frame(depthwise.halo_back(window_of(node), (h, w), (ho, wo)))
        kh, kw = node.kernel
        top, left = node.padding[:2]
        spread = node.stride if (ho, wo) != (1, 1) else (1, 1)
        halo = (
            max(0, kh - 1 - top),
            max(0, kw - 1 - left),
            max(0, h + top - (ho - 1) * spread[0] - 1),
            max(0, w + left - (wo - 1) * spread[1] - 1),
        )
        return Frame(halo, spread)

    def _pairs_in_one_place(self) -> dict[str, str]:
        """Inputs of batch norms whose gradient is written over the output's, which nobody reads then."""
        units = tuple(self.values.units.values())
        readers = Counter(name for unit in units for name in unit.inputs)
        found: dict[str, str] = {}
        for unit in units:
            name = unit.inputs[0] if unit.inputs else unit.output
            if (
                isinstance(unit.node, BatchNorm)
                and readers[name] == 1
                and not self.values.slots.keys() & {name, unit.output}
                and self._frame(name) == self._frame(unit.output)
            ):
                found[name] = unit.output
        return found

    def _frame(self, name: str) -> Frame:
        """The frame of the unit that produced it, widened for all that lies inside."""
        frames = [self.own_frame(self.values.units[leaf]) for leaf in self._leaves(name)]
        spreads = {frame.spread for frame in frames}
        halo = widest([frame.halo for frame in frames])
        return Frame(halo, spreads.pop()) if len(spreads) == 1 else Frame()

    def _leaves(self, name: str) -> tuple[str, ...]:
        inside = [child for child, (parent, _) in self.values.slots.items() if parent == name]
        return tuple(leaf for child in inside for leaf in self._leaves(child)) or (name,)


class Backward:
    """Records the gradients of one unit after the other, last unit first."""

    def __init__(
        self,
        forward: Forward,
        recall: Recall,
        packed: PackedWeights,
        gradients: Gradients,
        learned: dict[str, Gradient],
    ) -> None:
        """Prepare.

        Args:
            forward: The forward pass, recorded.
            recall: Gives the values of the forward pass that gradients are computed from.
            packed: Transposed weights.
            gradients: Places of the tensors' gradients.
            learned: Places of the learning parameters' gradients.
        """
        self.forward, self.program = forward, forward.program
        self.values, self.remembered, self.recall = forward.values, forward.remembered, recall
        self.places = forward.places
        self.packed, self.gradients, self.learned = packed, gradients, learned

    def record(self, unit: Unit) -> None:
        """Record the launches of one unit, whose output's gradient is complete."""
        if unit.output not in self.gradients.wanted and unit.node.name not in self.gradients.wanted:
            return
        node, program, values = unit.node, self.program, self.values
        dy = self.gradients.view(unit.output)
        if unit.point is not None and not isinstance(node, BatchNorm):
            raw = self.recall.raw(unit.output)
            elementwise.quantize_backward(program, raw, dy, dy, self.places[unit.point], accumulate=False)
        wanted = [name in self.gradients.wanted for name in unit.inputs]
        match node:
            case Conv2D() | DepthwiseConv2D():
                self._conv(unit, node, dy)
            case BatchNorm():
                norm, saved = self.remembered.norms[unit.output]
                at = [self.learned.get(f"{node.name}/{part}") for part in ("gamma", "beta")]
                targets = tuple(-1 if place is None else place.offset for place in at)
                dx, accumulate = self.gradients.target(unit.inputs[0]) if wanted[0] else (None, False)
                x = self.recall.view(unit.inputs[0])
                batch_norm.backward(program, x, dy, dx, norm, saved, (targets[0], targets[1]), accumulate)
            case Concat():
                if not values.in_place(unit):
                    first = 0
                    for name in unit.inputs:
                        channels = values.shape(name)[2]
                        if name in self.gradients.wanted:
                            dx, accumulate = self.gradients.target(name)
                            elementwise.copy(program, dy.slice(first, channels), dx, accumulate)
                        first += channels
            case _:
                for name in unit.inputs:
                    if name in self.gradients.wanted:
                        dx, accumulate = self.gradients.target(name)
                        self._plain(unit, dy, dx, accumulate)

    def _plain(self, unit: Unit, dy: View, dx: View, accumulate: bool) -> None:
        program, node = self.program, unit.node
        match node:
            case Relu() | ClippedRelu():
                y = self.recall.raw(unit.output)
                elementwise.relu_backward(program, y, dy, dx, accumulate, unit.ceiling)
            case MaxPool():
                winners = self.remembered.winners[unit.output]
                pool.max_backward(program, dy, dx, node, winners, accumulate)
            case AveragePool():
                pool.average_backward(program, dy, dx, node, accumulate)
            case GlobalAveragePool():
                pool.global_average_backward(program, dy, dx, accumulate)
            case Add():
                elementwise.copy(program, dy, dx, accumulate)
            case Dropout():
                self.remembered.dropout_calls[node.name].append(program.recorded)
                elementwise.dropout(program, dy, dx, node, accumulate)
            case Reshape():
                elementwise.reshape(program, dy, dx, accumulate)

    def _conv(self, unit: Unit, node: Conv2D | DepthwiseConv2D, dy: View) -> None:
        program, window = self.program, window_of(node)
        (name,) = unit.inputs
        open_where = self.recall.raw(unit.output) if unit.relu else None
        bias = self.learned.get(f"{node.name}/bias")
        if bias is not None:
            at = bias.offset, bias.floats
            elementwise.bias_gradient(program, dy, at, open_where, unit.ceiling)
        elif open_where is not None:
            elementwise.relu_backward(program, open_where, dy, dy, accumulate=False, ceiling=unit.ceiling)
        learned = self.learned.get(f"{node.name}/weight")
        target = (learned.offset, learned.floats) if learned is not None else None
        if isinstance(node, DepthwiseConv2D):
            self._depthwise(unit, node, dy, target)
            return
        if target is not None:
            conv2d.backward_weight(program, self.recall.view(name), dy, window, target)
        if name in self.gradients.wanted:
            dy = self._framed(unit, dy)
            dx, accumulate = self.gradients.target(name)
            kh, kw = node.kernel
            back = conv2d.Window(node.kernel, (1, 1), kh - 1 - window.up, kw - 1 - window.left)
            turned_at = self.packed.transposed_at[f"{node.name}/weight"]
            turned = conv2d.Weight("packed", turned_at, node.channels, dx.padded_channels)
            conv2d.forward(program, dy, turned, dx, back, conv2d.Epilogue(accumulate=accumulate))

    def _depthwise(self, unit: Unit, node: DepthwiseConv2D, dy: View, target: tuple[int, int] | None) -> None:
        """Gradients of the weight and of the input; with a multiplier, of its channels repeated first."""
        program, window, times = self.program, window_of(node), node.multiplier
        (name,) = unit.inputs
        if target is not None:
            x = depthwise.repeat_channels(program, self.recall.view(name), times, node.padding)
            depthwise.backward_weight(program, x, dy, window, target)
        if name not in self.gradients.wanted:
            return
        dy, weight = self._framed(unit, dy), self.forward.weight(node)
        dx, accumulate = self.gradients.target(name)
        if times == 1:
            depthwise.backward_input(program, dy, weight, dx, window, accumulate)
            return
        height, width, channels = self.values.shape(name)
        wide = program.images(f"d {name} repeated", (height, width, channels * times))
        depthwise.backward_input(program, dy, weight, wide, window, accumulate=False)
        depthwise.sum_channels(program, wide, dx, times, accumulate)

    def _framed(self, unit: Unit, dy: View) -> View:
        """`dy` with zeros around and between its pixels as the convolution back needs them."""
        frame = self.gradients.own_frame(unit)
        images: Images = dy.images
        wide = all(have >= need for have, need in zip(images.halo, frame.halo, strict=True))
        if wide and images.spread == frame.spread:
            return dy
        shape = self.values.shape(unit.output)
        framed = self.program.images(f"framed d {unit.output}", shape, frame.halo, frame.spread)
        elementwise.copy(self.program, dy, framed)
        return framed
