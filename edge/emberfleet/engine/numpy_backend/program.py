"""Compiles a graph into steps over one arena."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from emberfleet.core.arrays import Real
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
from emberfleet.core.quantization import quantization_points
from emberfleet.engine.memory import ArenaPlan
from emberfleet.engine.numpy_backend import layout
from emberfleet.engine.numpy_backend import steps as s
from emberfleet.engine.numpy_backend.conv_step import ConvStep
from emberfleet.engine.numpy_backend.depthwise_step import DepthwiseStep
from emberfleet.engine.numpy_backend.ranges import Range, Rounding, open_all
from emberfleet.engine.numpy_backend.recomputation import Segment, Timeline, choose
from emberfleet.engine.numpy_backend.step import Run, Site, Step
from emberfleet.engine.numpy_backend.workspace import Slot, Workspace

HANDLED = frozenset(
    node.kind
    for node in (
        Input, Conv2D, DepthwiseConv2D, BatchNorm, Relu, ClippedRelu, MaxPool, AveragePool, GlobalAveragePool,
        Concat, Add, Dropout, Reshape, Softmax,
    )
)  # fmt: skip
"""Node kinds for which `_make_step` has a step."""


@dataclass(slots=True)
class Program:
    """Steps in order, the rounding after each where training rounds, and the memory they share."""

    steps: list[Step[Any]]
    roundings: dict[str, Rounding]
    ranges: dict[str, Range]
    slots: Mapping[str, Slot]
    dlogits: Slot | None
    run: Run
    arena: ArenaPlan
    twice: tuple[Segment, ...] = ()
    """What runs forward a second time before it runs backward."""

    def forward(self) -> None:
        """Compute every value from the input's slot."""
        open_all(self.ranges)
        self._run_forward(self.steps)

    def backward(self) -> None:
        """Compute the gradients of the parameters from that of the logits."""
        again = {segment.last: segment for segment in self.twice}
        for index in reversed(range(len(self.steps))):
            step = self.steps[index]
            if step.site.doutput is None:
                continue
            if index in again:
                self._repeat(again[index])
            rounding = self.roundings.get(step.node.name)
            if rounding:
                rounding.backward()
            step.backward()

    def _run_forward(self, steps: Sequence[Step[Any]]) -> None:
        for step in steps:
            step.forward()
            rounding = self.roundings.get(step.node.name)
            if rounding:
                rounding.forward(self.run.learn_state)

    def _repeat(self, segment: Segment) -> None:
        """Compute a segment's values once more; statistics and ranges have moved in the first pass."""
        learn_state, self.run.learn_state = self.run.learn_state, False
        self._run_forward(self.steps[segment.first : segment.last + 1])
        self.run.learn_state = learn_state


def compile_graph(
    graph: Graph,
    batch: int,
    dtype: DTypeLike,
    run: Run,
    tensors: Mapping[str, Real],
    gradients: Mapping[str, Real] | None = None,
    memory_limit_bytes: int | None = None,
) -> Program:
    """Plan all steps of a graph for one batch size.

    Args:
        graph: The network.
        batch: Images per run.
        dtype: float32 or float64.
        run: Shared by all steps; training or not is fixed here, the counters change.
        tensors: Parameters, running statistics and, with fake quantization, ranges.
        gradients: Where the gradients of the learning parameters go; None: no backward pass.
        memory_limit_bytes: Most that the arena may take; to fit, modules are computed twice.

    Raises:
        ConfigError: the limit cannot be kept.
    """
    workspace = Workspace(dtype)
    learned = gradients or {}
    slots = layout.place_values(graph, batch, workspace, run.training)
    wanted = layout.needs_gradient(graph, frozenset(learned))
    places = layout.place_gradients(graph, batch, workspace, wanted)
    points = quantization_points(graph) if run.fake_quantize else {}
    ranges = {name: _range(graph, name, tensors) for name in points.values()}
    last = 2 * len(graph.nodes) + 2
    made: list[Step[Any]] = []
    roundings: dict[str, Rounding] = {}
    for index, node in enumerate(graph.nodes):
        if run.training and isinstance(node, Softmax):
            continue
        site = Site(
            node=node,
            index=index,
            values=tuple(slots[name] for name in node.inputs),
            output=slots[node.name],
            workspace=workspace,
            run=run,
            forward_time=index,
            tensors=tensors,
            gradients=learned,
            doutput=places.slots.get(node.name),
            dvalues=tuple(places.slots.get(name) for name in node.inputs),
            deliveries=places.deliveries.get(node.name, ()),
            backward_time=last - index if node.name in places.slots else -1,
        )
        made.append(_make_step(graph, site, points))
        if node.name in points:
            times = (index, last - index)
            held = ranges[points[node.name]]
            roundings[node.name] = Rounding(site.output, site.doutput, held, workspace, times)
    _keep_ends(graph, slots, places.slots.get(graph.logits), len(graph.nodes))
    twice: tuple[Segment, ...] = ()
    planned: ArenaPlan | None = None
    if memory_limit_bytes is not None:
        timeline = Timeline(workspace.buffers, len(graph.nodes), last)
        twice = choose(graph, made, timeline, batch, memory_limit_bytes)
        planned = timeline.plan(twice) if twice else None
    arena = workspace.allocate(planned)
    for step in made:
        step.bind()
    return Program(made, roundings, ranges, slots, places.slots.get(graph.logits), run, arena, twice)


def _keep_ends(graph: Graph, slots: Mapping[str, Slot], dlogits: Slot | None, loss_time: int) -> None:
    """The input is written before the first step, the logits are read by the loss and the caller."""
    slots[graph.input.name].buffer.times.add(-1)
    for name in (graph.logits, graph.output.name):
        slots[name].buffer.times.add(loss_time)
    if dlogits is not None:
        dlogits.buffer.times.add(loss_time)


def _range(graph: Graph, name: str, tensors: Mapping[str, Real]) -> Range:
    if name not in tensors:
        raise ShapeError(f"range '{name}' is missing, expected [min, max]: calibrate the model first")
    if np.shape(tensors[name]) != (2,):
        raise ShapeError(f"range '{name}': shape is {np.shape(tensors[name])}, expected (2,)")
    return Range(tensors[name], moves=name != quantization_points(graph)[graph.input.name])


def _make_step(graph: Graph, site: Site, points: Mapping[str, str]) -> Step[Any]:
    node, training = site.node, site.run.training
    match node:
        case Input():
            return s.InputStep(node, site)
        case Conv2D():
            return ConvStep(node, site)
        case DepthwiseConv2D():
            return DepthwiseStep(node, site)
        case BatchNorm():
            return s.BatchNormStep(node, site, layout.overwritable(graph, node.inputs[0], training))
        case Relu():
            return s.ReluStep(node, site, _changed_later(graph, node.name, points))
        case ClippedRelu():
            return s.ClippedReluStep(node, site, _changed_later(graph, node.name, points))
        case AveragePool():
            return s.AveragePoolStep(node, site)
        case MaxPool():
            return s.MaxPoolStep(node, site)
        case GlobalAveragePool():
            return s.GlobalAveragePoolStep(node, site)
        case Concat():
            return s.ConcatStep(node, site)
        case Add():
            return s.AddStep(node, site)
        case Dropout():
            return s.DropoutStep(node, site)
        case Reshape():
            return s.ReshapeStep(node, site)
        case Softmax():
            return s.SoftmaxStep(node, site)
    raise ShapeError(f"node '{node.name}': the numpy backend has no '{node.kind}'")


def _changed_later(graph: Graph, name: str, points: Mapping[str, str]) -> bool:
    """Whether the tensor is rounded in place, itself or as a part of a concat or reshape."""
    return name in points or any(
        _changed_later(graph, reader.name, points)
        for reader in graph.consumers[name]
        if isinstance(reader, (Concat, Reshape))
    )
