"""One training step as recorded launches: forward, loss, backward, update; its memory is not laid out yet."""

from __future__ import annotations

from collections.abc import Mapping, Set

from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D, DepthwiseConv2D, Softmax
from emberfleet.engine.backend import TrainingSpec
from emberfleet.engine.opencl import conv2d, depthwise, elementwise, loss, optimizer
from emberfleet.engine.opencl.backward import Backward, Gradients, upstream
from emberfleet.engine.opencl.device import OpenCLDevice
from emberfleet.engine.opencl.forward import Forward, Mode, window_of
from emberfleet.engine.opencl.network import Unit, Values, fuse, vector_width
from emberfleet.engine.opencl.parameters import ParameterBlock
from emberfleet.engine.opencl.program import Program
from emberfleet.engine.opencl.recall import Recall, Steps, step_work, training_work
from emberfleet.engine.opencl.weights import PackedWeights


class TrainingStep:
    """Launches of one step over symbolic storages, and what a trainer must know of them."""

    def __init__(
        self,
        device: OpenCLDevice,
        graph: Graph,
        spec: TrainingSpec,
        blocks: tuple[ParameterBlock, ParameterBlock],
        learning: tuple[str, ...],
        points: Mapping[str, str],
        dropped: Set[str],
    ) -> None:
        """Record the whole step.

        Args:
            device: Where it will run.
            graph: The network.
            spec: How it learns.
            blocks: Parameters, running statistics.
            learning: Parameters that learn.
            points: Where outputs are rounded: node name to range name.
            dropped: Labels of the storages that forward does not keep for backward.
        """
        self.graph, self._params, self._learning = graph, blocks[0], learning
        self.program = program = Program(device, vector_width(graph, device.limits.vector_width), spec.batch)
        units, aliases = fuse(graph, points, training=True)
        units = tuple(unit for unit in units if not isinstance(unit.node, Softmax))
        self.values = Values(program, graph, units, separate_raw=True)
        wanted = _with_fused(units, upstream(graph, frozenset(learning)))
        convolutions = [unit.node for unit in units if isinstance(unit.node, (Conv2D, DepthwiseConv2D))]
        transposed = frozenset(
            node.name for node in convolutions if _source(aliases, node.inputs[0]) in wanted
        )
        rounded = spec.fake_quantize
        self.packed = PackedWeights(convolutions, self._params, rounded, transposed, program.vector)
        self.packed.record(program)
        mode = Mode(
            training=True,
            batch_statistics=spec.batch_statistics,
            weights="packed" if rounded else "params",
            weight_offsets=self.packed.rounded_at,
        )
        forward = Forward(program, graph, self.values, blocks, mode, places_of(points))
        for unit in units:
            forward.record(unit)
        self.remembered = forward.remembered
        self.turn = program.recorded
        """Position of the first launch after the forward pass."""
        logits = _source(aliases, graph.logits)
        gradients = Gradients(program, graph, self.values, wanted)
        dlogits, _ = gradients.target(logits)
        loss.softmax_cross_entropy(
            program, self.values.view(logits), dlogits, graph.positions, graph.classes, spec.label_smoothing
        )
        self.gradients = self._place_gradients(units, gradients)
        """Where the gradients of the learning parameters are left, by name."""
        self.input = self.values.view(graph.input.name)
        program.hold(self.input.images, first=True)
        self.steps = Steps(self.values, units)
        self.recall = Recall(forward, self.steps, dropped)
        backward = Backward(forward, self.recall, self.packed, gradients, self.gradients)
        for unit in reversed(units):
            backward.record(unit)
        self._record_end(spec)
        self._work = training_work(units, self.values, frozenset(learning), wanted)

    @property
    def recomputed(self) -> tuple[str, ...]:
        """Names of the nodes computed a second time, in the network's order."""
        again = {step.unit.node.name for step in self.recall.repeated if step_work(step, self.values)}
        return tuple(node.name for node in self.graph.nodes if node.name in again)

    @property
    def extra_work(self) -> float:
        """What computing twice adds, as a share of the step's work without it."""
        return sum(step_work(step, self.values) for step in self.recall.repeated) / self._work

    def _record_end(self, spec: TrainingSpec) -> None:
        """Ranges seen, then the update of the parameters."""
        program = self.program
        extremes = self.remembered.extremes
        for extreme in extremes:
            program.hold(extreme.storage, last=True)
        if extremes:
            program.emit("ranges", "find_ranges_f32", (len(extremes),), "arena", "found", "range_jobs")
        self.update_at = program.recorded
        self.update_jobs = optimizer.job_table(self._params, self.gradients)
        if len(self.update_jobs):
            optimizer.record(
                program, spec.optimizer, self._params, self.update_jobs, proximal=spec.proximal > 0
            )

    def _place_gradients(
        self, units: tuple[Unit, ...], gradients: Gradients
    ) -> dict[str, optimizer.Gradient]:
        """Partial sums of every learning parameter's gradient, one after the other."""
        parts = dict.fromkeys(self._learning, 1)
        for unit in units:
            node = unit.node
            if not isinstance(node, (Conv2D, DepthwiseConv2D)):
                continue
            weight, bias = f"{node.name}/weight", f"{node.name}/bias"
            if weight in parts:
                x, dy = self.values.view(unit.inputs[0]), gradients.view(unit.output)
                if isinstance(node, DepthwiseConv2D):
                    parts[weight] = depthwise.weight_parts(self.program, dy, window_of(node))
                else:
                    parts[weight] = conv2d.weight_parts(self.program, x, dy, window_of(node))
            if bias in parts:
                parts[bias] = elementwise.bias_parts(self.program, gradients.view(unit.output))
        found: dict[str, optimizer.Gradient] = {}
        offset = 0
        for name in self._learning:
            floats = self._params.entries[name].floats
            found[name] = optimizer.Gradient(offset, parts[name], floats)
            offset += parts[name] * floats
        return found


def places_of(points: Mapping[str, str]) -> dict[str, int]:
    """Positions in the buffer `quantization`, by range name."""
    return {name: index for index, name in enumerate(dict.fromkeys(points.values()))}


def _with_fused(units: tuple[Unit, ...], wanted: frozenset[str]) -> frozenset[str]:
    """A unit's output is wanted when its first node's is: the ReLU taken in has another name."""
    return wanted | {unit.output for unit in units if unit.node.name in wanted}


def _source(aliases: Mapping[str, str], name: str) -> str:
    while name in aliases:
        name = aliases[name]
    return name
