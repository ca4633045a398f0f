"""Training on OpenCL: one program per trainer, everything planned when it is made."""

from __future__ import annotations

from typing import Any

import numpy as np

from emberfleet.core.arrays import Array, Float32, Tensors
from emberfleet.core.errors import ShapeError
from emberfleet.core.graph import Graph
from emberfleet.core.quantization import QuantParams, quantization_points
from emberfleet.engine.backend import TrainingSpec
from emberfleet.engine.batches import (
    check_images,
    check_labels,
    check_optimizer_state,
    check_ranges,
    learning_names,
)
from emberfleet.engine.dropout import mask_key
from emberfleet.engine.memory import ArenaPlan, TrainingMemory
from emberfleet.engine.opencl import optimizer
from emberfleet.engine.opencl.device import OpenCLDevice
from emberfleet.engine.opencl.forward import Extremes
from emberfleet.engine.opencl.network import vector_width
from emberfleet.engine.opencl.parameters import ParameterBlock
from emberfleet.engine.opencl.predictor import quantization_table
from emberfleet.engine.opencl.program import FLOAT_BYTES
from emberfleet.engine.opencl.recomputation import fit
from emberfleet.engine.opencl.staging import Staging
from emberfleet.engine.opencl.training_step import TrainingStep, places_of

KEY_ARGUMENT = 9
"""Index of the dropout kernel's argument that changes with each step."""


class OpenCLTrainer:
    """See `engine.backend.Trainer`."""

    def __init__(self, device: OpenCLDevice, graph: Graph, spec: TrainingSpec) -> None:
        self.graph, self.spec, self.device = graph, spec, device
        self._learning = learning_names(graph, spec.trainable)
        points = quantization_points(graph) if spec.fake_quantize else {}
        self._places = places_of(points)
        self._fixed_range = points.get(graph.input.name)
        self._ranges = {name: np.zeros(2, np.float32) for name in self._places}
        self._extra: dict[str, Float32] = {}
        self._loaded = False
        self._done = 0
        vector = vector_width(graph, device.limits.vector_width)
        self._params = ParameterBlock(graph.parameters, vector)
        self._state = ParameterBlock(graph.state, vector)
        blocks = self._params, self._state

        def record(dropped: frozenset[str]) -> TrainingStep:
            return TrainingStep(device, graph, spec, blocks, self._learning, points, dropped)

        step = fit(record, spec.memory_limit_bytes)
        self.program = step.program
        self._gradients, self._input = step.gradients, step.input
        self._extremes = step.remembered.extremes
        self._compile(step)
        assert self.program.arena is not None
        self._memory = TrainingMemory(
            self.program.arena, spec.memory_limit_bytes, step.recomputed, step.extra_work
        )

    @property
    def memory(self) -> TrainingMemory:
        """See `engine.backend.Trainer.memory`."""
        return self._memory

    @property
    def arena(self) -> ArenaPlan:
        """The memory plan of values, gradients and scratch."""
        return self._memory.arena

    def load(self, tensors: Tensors) -> None:
        """See `engine.backend.Trainer.load`; ranges that this trainer does not use are kept for `tensors`."""
        self.graph.check(tensors)
        check_ranges(self._ranges, tensors)
        self._upload("params", self._params.pack(tensors))
        if self.spec.proximal:
            self._upload("anchor", self._params.pack(tensors))
        self._upload("state", self._state.pack(tensors))
        self._ranges = {name: np.array(tensors[name], np.float32) for name in self._ranges}
        self._extra = {
            name: np.array(value, np.float32)
            for name, value in tensors.items()
            if name.endswith("/range") and name not in self._ranges
        }
        self._loaded = True

    def tensors(self) -> dict[str, Float32]:
        """See `engine.backend.Trainer.tensors`."""
        found = self._params.unpack(self._download("params", self._params.floats))
        found.update(self._state.unpack(self._download("state", self._state.floats)))
        found.update({name: value.copy() for name, value in {**self._ranges, **self._extra}.items()})
        return found

    def optimizer_state(self) -> dict[str, Float32]:
        """See `engine.backend.Trainer.optimizer_state`."""
        found: dict[str, Float32] = {"step": np.array([self._done], np.float32)}
        size = self._params.floats
        for slot in range(self.spec.optimizer.slots):
            flat = self._download("slots", size, slot * size)
            values = self._params.unpack(flat, self._learning)
            found.update({f"slot{slot}/{name}": values[name] for name in self._learning})
        return found

    def load_optimizer_state(self, state: Tensors) -> None:
        """See `engine.backend.Trainer.load_optimizer_state`.

        Raises:
            ShapeError: a slot is missing or has the wrong shape.
        """
        slots = optimizer.slot_names(self.spec.optimizer, self._learning)
        shapes = {f"slot{slot}/{name}": self.graph.parameters[name] for slot, name in slots}
        check_optimizer_state(shapes, state)
        size = self._params.floats
        for slot in range(self.spec.optimizer.slots):
            values = {
                name: state.get(f"slot{slot}/{name}", np.zeros(shape, np.float32))
                for name, shape in self.graph.parameters.items()
            }
            self._upload("slots", self._params.pack(values), slot * size)
        self._done = int(np.asarray(state["step"]).reshape(-1)[0])

    def step(self, x: Float32, labels: Array, rate: float) -> float:
        """See `engine.backend.Trainer.step`."""
        self._feed(x, labels)
        self._done += 1
        if self._update_at is not None:
            rates = optimizer.rates(self.spec.optimizer, rate, self._done, self.spec.proximal)
            self.program.set_argument(self._update_at, optimizer.RATES_ARGUMENT, rates)
        self.program.run()
        found = self._loss()
        self._move_ranges()
        return found

    def gradients(self, x: Float32, labels: Array) -> dict[str, Float32]:
        """See `engine.backend.Trainer.gradients`."""
        self._feed(x, labels)
        before = self._download("state", self._state.floats)
        self.program.run(stop=self._update_at)
        self._upload("state", before)
        pull = np.zeros(self._params.floats, np.float32)
        if self.spec.proximal:
            pull = self._download("params", self._params.floats)
            pull = self.spec.proximal * (pull - self._download("anchor", self._params.floats))
        found: dict[str, Float32] = {}
        for name, place in self._gradients.items():
            parts = self._download("gradients", place.parts * place.floats, place.offset)
            entry = self._params.entries[name]
            flat = np.zeros(self._params.floats, np.float32)
            span = slice(entry.offset, entry.offset + entry.floats)
            flat[span] = parts.reshape(place.parts, -1).sum(axis=0) + pull[span]
            found.update(self._params.unpack(flat, [name]))
        return found

    def _compile(self, step: TrainingStep) -> None:
        """Lay out the step's memory and build its kernels."""
        graph, spec = self.graph, self.spec
        packed, jobs = step.packed, step.update_jobs
        rows = spec.batch * graph.positions
        floats = {
            "params": self._params.floats,
            "state": self._state.floats,
            "packed": packed.floats,
            "gradients": sum(place.parts * place.floats for place in self._gradients.values()),
            "slots": spec.optimizer.slots * self._params.floats,
            "anchor": self._params.floats if spec.proximal else 0,
            "quantization": 4 * max(len(self._places), 1),
            "losses": rows,
            "labels": rows,
            "found": 2 * len(self._extremes),
            "update_jobs": jobs.size,
            "rounding_jobs": packed.rounding_jobs.size,
            "turning_jobs": packed.turning_jobs.size,
            "range_jobs": 4 * len(self._extremes),
        }
        moved = self.program.compile({name: count * FLOAT_BYTES for name, count in floats.items()})
        self._update_at = moved[step.update_at] if jobs.size else None
        nodes = {node.name: index for index, node in enumerate(graph.nodes)}
        self._masks = [
            (nodes[name], moved[at]) for name, calls in step.remembered.dropout_calls.items() for at in calls
        ]
        tables = {
            "update_jobs": jobs,
            "rounding_jobs": packed.rounding_jobs,
            "turning_jobs": packed.turning_jobs,
            "range_jobs": _range_jobs(self._extremes),
        }
        for name, table in tables.items():
            if table.size:
                self._upload(name, table)
        self._staging = Staging(self._input)

    def _feed(self, x: Float32, labels: Array) -> None:
        """Check a batch, then bring it and this step's numbers to the device."""
        if not self._loaded:
            raise ShapeError("the trainer has no weights: load tensors first")
        check_images(self.graph, x, self.spec.batch)
        targets = check_labels(self.graph, labels, self.spec.batch)
        self.program.upload(self._input.images, self._staging.fill(x))
        self._upload("labels", targets.astype(np.int32))
        if self._ranges:
            params = {
                name: QuantParams.from_range(float(values[0]), float(values[1]))
                for name, values in self._ranges.items()
            }
            self._upload("quantization", quantization_table(params))
        for node, position in self._masks:
            key = np.uint32(mask_key(self.spec.seed, self._done, node))
            self.program.set_argument(position, KEY_ARGUMENT, key)

    def _loss(self) -> float:
        losses = self._download("losses", self.spec.batch * self.graph.positions)
        return float(losses.mean(dtype=np.float64))

    def _move_ranges(self) -> None:
        """``range = momentum * range + (1 - momentum) * seen`` for all but the input's."""
        if not self._extremes:
            return
        found = self._download("found", 2 * len(self._extremes)).reshape(-1, 2)
        seen: dict[str, tuple[float, float]] = {}
        for extreme, (low, high) in zip(self._extremes, found.tolist(), strict=True):
            before = seen.get(extreme.range_name, (low, high))
            seen[extreme.range_name] = (min(low, before[0]), max(high, before[1]))
        momentum = self.spec.range_momentum
        for name, pair in seen.items():
            if name != self._fixed_range:
                self._ranges[name] *= momentum
                self._ranges[name] += (1.0 - momentum) * np.array(pair, np.float32)

    def _upload(self, name: str, values: np.ndarray[Any, Any], offset: int = 0) -> None:
        self.program.write(name, values, offset * FLOAT_BYTES)

    def _download(self, name: str, count: int, offset: int = 0) -> Float32:
        return self.program.read(name, count, np.float32, offset * FLOAT_BYTES)


def _range_jobs(extremes: list[Extremes]) -> Array:
    rows = [(e.storage.offset, e.parts, e.padded_channels, e.channels) for e in extremes]
    return np.array(rows, np.int32).reshape(-1, 4)
