"""Training on numpy: one program per trainer, parameters and gradients each in one flat array."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import DTypeLike

from emberfleet.core.arrays import Array, Float32, Int64, Real, Tensors
from emberfleet.core.errors import ShapeError
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Shape
from emberfleet.core.quantization import quantization_points
from emberfleet.engine.backend import TrainingSpec
from emberfleet.engine.batches import (
    check_images,
    check_labels,
    check_optimizer_state,
    check_ranges,
    learning_names,
)
from emberfleet.engine.memory import ArenaPlan, TrainingMemory
from emberfleet.engine.numpy_backend.loss import softmax_cross_entropy
from emberfleet.engine.numpy_backend.program import compile_graph
from emberfleet.engine.numpy_backend.recomputation import segment_work
from emberfleet.engine.numpy_backend.step import Run
from emberfleet.engine.numpy_backend.threads import Threads
from emberfleet.engine.optimizers import decays
from emberfleet.engine.work import forward_work

UPDATE_BLOCK = 1 << 14
"""Parameters updated at a time, so that the optimizer's temporaries stay in the first cache."""


class NumpyTrainer:
    """See `engine.backend.Trainer`. The learning parameters stand in one array, weights first."""

    def __init__(self, graph: Graph, spec: TrainingSpec, dtype: DTypeLike, threads: Threads) -> None:
        self.graph, self.spec = graph, spec
        self._dtype = np.dtype(dtype)
        self._threads = threads
        names = learning_names(graph, spec.trainable)
        order = sorted(names, key=lambda name: not decays(name))
        self._decayed = sum(math.prod(graph.parameters[name]) for name in order if decays(name))
        count = sum(math.prod(graph.parameters[name]) for name in order)
        self._flat, self._dflat = np.zeros(count, self._dtype), np.zeros(count, self._dtype)
        self._anchor = np.zeros(count if spec.proximal else 0, self._dtype)
        self._slots = [np.zeros(count, self._dtype) for _ in range(spec.optimizer.slots)]
        self._order = tuple(order)
        self._learning = names
        parameters = self._views(self._flat)
        self._gradients = self._views(self._dflat)
        kept: dict[str, Shape] = {**graph.parameters, **graph.state}
        points = quantization_points(graph) if spec.fake_quantize else {}
        self._ranges = frozenset(points.values())
        kept.update(dict.fromkeys(points.values(), (2,)))
        self._tensors: dict[str, Real] = {
            name: parameters[name] if name in parameters else np.zeros(shape, self._dtype)
            for name, shape in kept.items()
        }
        self._extra: dict[str, Real] = {}
        self._loaded = False
        self._run = Run(
            batch_statistics=spec.batch_statistics, fake_quantize=spec.fake_quantize, seed=spec.seed
        )
        self._program = compile_graph(
            graph,
            spec.batch,
            self._dtype,
            self._run,
            self._tensors,
            self._gradients,
            spec.memory_limit_bytes,
        )

    @property
    def memory(self) -> TrainingMemory:
        """See `engine.backend.Trainer.memory`."""
        steps, twice = self._program.steps, self._program.twice
        names = tuple(step.node.name for part in twice for step in steps[part.first : part.last + 1])
        extra = sum(segment_work(self.graph, steps, part) for part in twice)
        return TrainingMemory(self.arena, self.spec.memory_limit_bytes, names, extra / self._work())

    @property
    def arena(self) -> ArenaPlan:
        """The memory plan of values, gradients and scratch."""
        return self._program.arena

    def load(self, tensors: Tensors) -> None:
        """See `engine.backend.Trainer.load`; ranges that this trainer does not use are kept for `tensors`."""
        self.graph.check(tensors)
        check_ranges(self._ranges, tensors)
        for name, place in self._tensors.items():
            place[...] = tensors[name]
        self._extra = {
            name: np.array(value, self._dtype)
            for name, value in tensors.items()
            if name.endswith("/range") and name not in self._tensors
        }
        if self.spec.proximal:
            np.copyto(self._anchor, self._flat)
        self._loaded = True

    def tensors(self) -> dict[str, Float32]:
        """See `engine.backend.Trainer.tensors`."""
        return _copies({**self._tensors, **self._extra})

    def optimizer_state(self) -> dict[str, Float32]:
        """See `engine.backend.Trainer.optimizer_state`."""
        found: dict[str, Real] = {"step": np.array([self._run.done], self._dtype)}
        for index, slot in enumerate(self._slots):
            views = self._views(slot)
            found.update({f"slot{index}/{name}": views[name] for name in self._learning})
        return _copies(found)

    def load_optimizer_state(self, state: Tensors) -> None:
        """See `engine.backend.Trainer.load_optimizer_state`.

        Raises:
            ShapeError: a slot is missing or has the wrong shape.
        """
        targets = {
            f"slot{index}/{name}": view
            for index, slot in enumerate(self._slots)
            for name, view in self._views(slot).items()
        }
        check_optimizer_state({name: view.shape for name, view in targets.items()}, state)
        for name, view in targets.items():
            view[...] = state[name]
        self._run.done = int(np.asarray(state["step"]).reshape(-1)[0])

    def step(self, x: Float32, labels: Array, rate: float) -> float:
        """See `engine.backend.Trainer.step`."""
        with self._threads.bounded():
            self._run.learn_state = True
            loss = self._forward_backward(x, labels)
            for held in self._program.ranges.values():
                held.close(self.spec.range_momentum)
            self._run.done += 1
            self._update(rate)
        return loss

    def gradients(self, x: Float32, labels: Array) -> dict[str, Float32]:
        """See `engine.backend.Trainer.gradients`."""
        with self._threads.bounded():
            self._run.learn_state = False
            self._forward_backward(x, labels)
        return _copies({name: self._gradients[name] for name in self._learning})

    def _forward_backward(self, x: Float32, labels: Array) -> float:
        if not self._loaded:
            raise ShapeError("the trainer has no weights: load tensors first")
        check_images(self.graph, x, self.spec.batch)
        targets: Int64 = check_labels(self.graph, labels, self.spec.batch)
        program = self._program
        np.copyto(program.slots[self.graph.input.name].array, x, casting="same_kind")
        program.forward()
        logits = program.slots[self.graph.logits].rows
        dlogits = None if program.dlogits is None else program.dlogits.rows
        loss = softmax_cross_entropy(logits, targets, self.spec.label_smoothing, dlogits)
        program.backward()
        if self.spec.proximal:
            self._pull()
        return loss

    def _pull(self) -> None:
        """Add the gradient of ``proximal / 2 * |w - w0|^2``."""
        for low in range(0, len(self._flat), UPDATE_BLOCK):
            part = slice(low, low + UPDATE_BLOCK)
            self._dflat[part] += self.spec.proximal * (self._flat[part] - self._anchor[part])

    def _work(self) -> int:
        """About how long a step takes for one image, as `engine.work` counts: backward is twice forward."""
        total = 0
        for step in self._program.steps:
            total += forward_work(self.graph, step.node) * (1 if step.site.doutput is None else 3)
        return total

    def _update(self, rate: float) -> None:
        edges = (0, self._decayed, len(self._flat))
        for start, stop, decay in ((edges[0], edges[1], True), (edges[1], edges[2], False)):
            for low in range(start, stop, UPDATE_BLOCK):
                part = slice(low, min(low + UPDATE_BLOCK, stop))
                slots: Sequence[Real] = [slot[part] for slot in self._slots]
                self.spec.optimizer.apply(
                    self._flat[part], self._dflat[part], slots, rate, self._run.done, decay
                )

    def _views(self, flat: Real) -> dict[str, Real]:
        """The parts of a flat array by parameter, in their shapes."""
        return dict(_split(flat, ((name, self.graph.parameters[name]) for name in self._order)))


def _split(flat: Real, shapes: Iterable[tuple[str, Shape]]) -> Iterable[tuple[str, Real]]:
    start = 0
    for name, shape in shapes:
        stop = start + math.prod(shape)
        yield name, flat[start:stop].reshape(shape)
        start = stop


def _copies(tensors: Mapping[str, Real]) -> dict[str, Float32]:
    """Copies in the trainer's own type; float64 only where a gradient check asked for it."""
    return {name: cast("Float32", value.copy()) for name, value in tensors.items()}
