"""Prediction on numpy."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import DTypeLike

from emberfleet.core.arrays import Float32, Real, Tensors
from emberfleet.core.graph import Graph
from emberfleet.core.quantization import quantization_points
from emberfleet.engine.batches import check_images
from emberfleet.engine.numpy_backend.program import Program, compile_graph
from emberfleet.engine.numpy_backend.step import Run
from emberfleet.engine.numpy_backend.threads import Threads


class NumpyPredictor:
    """See `engine.backend.Predictor`. A smaller last batch has its own program, made when first met."""

    def __init__(
        self,
        graph: Graph,
        tensors: Tensors,
        batch: int,
        dtype: DTypeLike,
        threads: Threads,
        fake_quantize: bool = False,
    ) -> None:
        graph.check(tensors)
        self.graph, self.batch = graph, batch
        self._dtype = np.dtype(dtype)
        self._threads = threads
        self._fake_quantize = fake_quantize
        wanted = {*graph.parameters, *graph.state}
        if fake_quantize:
            wanted.update(name for name in quantization_points(graph).values() if name in tensors)
        self._tensors: dict[str, Real] = {name: np.array(tensors[name], self._dtype) for name in wanted}
        self._programs: dict[int, Program] = {batch: self._compile(batch)}

    def run(self, x: Float32) -> Float32:
        """See `engine.backend.Predictor.run`."""
        check_images(self.graph, x)
        out = np.empty((len(x), *self.graph.shapes[self.graph.output.name]), self._dtype)
        with self._threads.bounded():
            for start in range(0, len(x), self.batch):
                part = x[start : start + self.batch]
                program = self._program(len(part))
                np.copyto(program.slots[self.graph.input.name].array, part, casting="same_kind")
                program.forward()
                out[start : start + len(part)] = program.slots[self.graph.output.name].array
        return cast("Float32", out)

    def _program(self, count: int) -> Program:
        """The program for `count` images; besides the full batch, only the latest other size is kept."""
        if count not in self._programs:
            self._programs = {self.batch: self._programs[self.batch], count: self._compile(count)}
        return self._programs[count]

    def _compile(self, batch: int) -> Program:
        run = Run(training=False, batch_statistics=False, fake_quantize=self._fake_quantize)
        return compile_graph(self.graph, batch, self._dtype, run, self._tensors)
