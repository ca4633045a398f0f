"""Records the forward pass of a network, for prediction or for training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    Dropout,
    GlobalAveragePool,
    Input,
    MaxPool,
    Relu,
    Reshape,
    Softmax,
)
from emberfleet.core.quantization import QuantParams
from emberfleet.engine.opencl import batch_norm, conv2d, depthwise, elementwise, loss, pool
from emberfleet.engine.opencl.layout import Storage
from emberfleet.engine.opencl.network import Unit, Values
from emberfleet.engine.opencl.parameters import ParameterBlock
from emberfleet.engine.opencl.program import Program


@dataclass(slots=True)
class Extremes:
    """Partial minima and maxima of one rounded tensor, for its range to follow."""

    range_name: str
    storage: Storage
    parts: int
    channels: int
    padded_channels: int


@dataclass(slots=True)
class Remembered:
    """What the forward pass leaves for the backward pass, by the unit's output."""

    norms: dict[str, tuple[batch_norm.Norm, batch_norm.Saved]] = field(default_factory=dict)
    winners: dict[str, Storage] = field(default_factory=dict)
    extremes: list[Extremes] = field(default_factory=list)
    dropout_calls: dict[str, list[int]] = field(default_factory=dict)
    """Recorded positions of the launches whose mask key changes with each step, by node."""


@dataclass(frozen=True, slots=True)
class Mode:
    """What kind of forward pass is recorded."""

    training: bool
    batch_statistics: bool = False
    weights: str = "params"
    """Buffer that convolutions read their weights from."""
    weight_offsets: Mapping[str, int] | None = None
    """Offsets in it, where they differ from those of the parameters."""
    fixed_rounding: Mapping[str, QuantParams] | None = None
    """In prediction: the rounding by range name, taken into convolutions."""


class Forward:
    """Records one unit after the other."""

    def __init__(
        self,
        program: Program,
        graph: Graph,
        values: Values,
        blocks: tuple[ParameterBlock, ParameterBlock],
        mode: Mode,
        places: Mapping[str, int],
    ) -> None:
        """Prepare.

        Args:
            program: Takes the launches.
            graph: The network.
            values: Places of its tensors.
            blocks: Parameters, running statistics.
            mode: Prediction or training.
            places: Positions in the buffer `quantization`, by range name.
        """
        self.program, self.graph, self.values, self.mode = program, graph, values, mode
        self.params, self.state = blocks
        self.places = places
        self.remembered = Remembered()

    def record(self, unit: Unit) -> None:
        """Record the launches of one unit, its rounding included."""
        rounded = self._compute(unit, again=False)
        if unit.point is not None and not rounded:
            self._round(unit, again=False)

    def repeat(self, unit: Unit, rounding: bool) -> None:
        """Record a unit once more: its rounding alone, or all but a rounding that is a launch of its own.

        The same kernels read the same values and give the same bits; running statistics, extremes
        and a pool's winners stay as the first pass left them.
        """
        if rounding:
            self._round(unit, again=True)
        else:
            self._compute(unit, again=True)

    def _compute(self, unit: Unit, again: bool) -> bool:
        """Record all but the rounding; returns whether that was taken in."""
        program, values, node = self.program, self.values, unit.node
        y = values.raw(unit.output)
        sources = [values.view(name) for name in unit.inputs]
        rounded = False
        match node:
            case Input():
                pass
            case Conv2D() | DepthwiseConv2D():
                rounded = self._conv(unit, node)
            case BatchNorm():
                rounded = self._batch_norm(unit, node, again)
            case Relu() | ClippedRelu():
                elementwise.relu_forward(program, sources[0], y, unit.ceiling)
            case MaxPool():
                where = pool.max_forward(program, sources[0], y, node, self.mode.training and not again)
                if where is not None:
                    self.remembered.winners[unit.output] = where
            case AveragePool():
                pool.average_forward(program, sources[0], y, node)
            case GlobalAveragePool():
                pool.global_average_forward(program, sources[0], y)
            case Concat():
                if not values.in_place(unit):
                    first = 0
                    for source in sources:
                        elementwise.copy(program, source, y.slice(first, source.channels))
                        first += source.channels
            case Add():
                elementwise.add(program, sources[0], sources[1], y)
            case Dropout():
                self.remembered.dropout_calls.setdefault(node.name, []).append(program.recorded)
                elementwise.dropout(program, sources[0], y, node)
            case Reshape():
                elementwise.reshape(program, sources[0], y)
            case Softmax():
                loss.softmax(program, sources[0], y, self.graph.positions, self.graph.classes)
            case _:
                raise ShapeError(f"node '{node.name}': the OpenCL backend has no '{node.kind}'")
        return rounded

    def weight(self, node: Conv2D | DepthwiseConv2D) -> conv2d.Weight:
        """Where a convolution's weights are."""
        name = f"{node.name}/weight"
        entry = self.params.entries[name]
        offset = (self.mode.weight_offsets or {}).get(name, entry.offset)
        return conv2d.Weight(self.mode.weights, offset, entry.shape[3], entry.padded)

    def _conv(self, unit: Unit, node: Conv2D | DepthwiseConv2D) -> bool:
        rounding = self._fixed(unit)
        epilogue = conv2d.Epilogue(
            bias=("params", self.params.offset(f"{node.name}/bias")) if node.bias else None,
            relu=unit.relu,
            rounding=rounding,
            ceiling=unit.ceiling,
        )
        x, y = self.values.view(unit.inputs[0]), self.values.raw(unit.output)
        if isinstance(node, DepthwiseConv2D):
            x = depthwise.repeat_channels(self.program, x, node.multiplier, node.padding)
            depthwise.forward(self.program, x, self.weight(node), y, window_of(node), epilogue)
        else:
            conv2d.forward(self.program, x, self.weight(node), y, window_of(node), epilogue)
        return rounding is not None

    def _batch_norm(self, unit: Unit, node: BatchNorm, again: bool) -> bool:
        x, y = self.values.view(unit.inputs[0]), self.values.view(unit.output)
        if again:
            batch_norm.repeat(self.program, x, y, *self.remembered.norms[unit.output])
            return True
        at = {part: self.params.offset(f"{node.name}/{part}") for part in ("gamma", "beta")}
        norm = batch_norm.Norm(
            **at,
            mean=self.state.offset(f"{node.name}/mean"),
            variance=self.state.offset(f"{node.name}/variance"),
            epsilon=node.epsilon,
            momentum=node.momentum,
            batch_statistics=self.mode.batch_statistics,
            relu=unit.relu,
            ceiling=unit.ceiling,
            rounding=None if unit.point is None else self.places[unit.point],
        )
        saved = batch_norm.forward(self.program, x, y, norm)
        self.remembered.norms[unit.output] = (norm, saved)
        if unit.point is not None and saved.extremes is not None:
            self._observe(unit.point, saved.extremes, saved.parts, unit.output)
        return True

    def _fixed(self, unit: Unit) -> tuple[float, float, float, float] | None:
        if unit.point is None or self.mode.fixed_rounding is None:
            return None
        return rounding_numbers(self.mode.fixed_rounding[unit.point])

    def _round(self, unit: Unit, again: bool) -> None:
        assert unit.point is not None
        x, y = self.values.raw(unit.output), self.values.view(unit.output)
        observe = self.mode.training and not again and not isinstance(unit.node, Input)
        found = elementwise.quantize(self.program, x, y, self.places[unit.point], observe)
        if found is not None:
            self._observe(unit.point, found[0], found[1], unit.output)

    def _observe(self, point: str, storage: Storage, parts: int, output: str) -> None:
        view = self.values.view(output)
        self.remembered.extremes.append(Extremes(point, storage, parts, view.channels, view.padded_channels))


def window_of(node: Conv2D | DepthwiseConv2D) -> conv2d.Window:
    """The window of a convolution node."""
    return conv2d.Window(node.kernel, node.stride, node.padding[0], node.padding[1])


def rounding_numbers(params: QuantParams) -> tuple[float, float, float, float]:
    """What a kernel is told of a rounding: 1 / scale, scale, lowest and highest code minus zero point."""
    import numpy as np

    inverse = float(np.float32(1.0) / np.float32(params.scale))
    return inverse, params.scale, float(-128 - params.zero_point), float(127 - params.zero_point)
