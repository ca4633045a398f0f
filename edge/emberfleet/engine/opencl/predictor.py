"""Prediction in float32 on OpenCL: batch norm folded, ReLU and rounding in the convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from emberfleet.core.arrays import Float32, Tensors
from emberfleet.core.folding import fold
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D, DepthwiseConv2D
from emberfleet.core.quantization import QuantParams, fake_quantize_weights, quantization_points, range_params
from emberfleet.engine.batches import check_images
from emberfleet.engine.opencl.device import OpenCLDevice
from emberfleet.engine.opencl.forward import Forward, Mode, rounding_numbers
from emberfleet.engine.opencl.layout import View
from emberfleet.engine.opencl.network import Values, fuse, vector_width
from emberfleet.engine.opencl.parameters import ParameterBlock
from emberfleet.engine.opencl.program import Program
from emberfleet.engine.opencl.staging import Staging
from emberfleet.engine.work import convolution_work


class OpenCLPredictor:
    """See `engine.backend.Predictor`."""

    def __init__(
        self, device: OpenCLDevice, graph: Graph, tensors: Tensors, batch: int, fake_quantize: bool = False
    ) -> None:
        graph.check(tensors)
        device = device.suited(batch * _products(graph))
        self.graph, self.batch, self.device = graph, batch, device
        recorded = record(device, graph, tensors, batch, fake_quantize)
        self.program = recorded.program
        self._input, self._output = recorded.input, recorded.output
        self.program.compile({name: values.nbytes for name, values in recorded.buffers.items()})
        for name, values in recorded.buffers.items():
            self.program.write(name, values)
        self._staging = Staging(self._input)

    def run(self, x: Float32) -> Float32:
        """See `engine.backend.Predictor.run`."""
        check_images(self.graph, x)
        shape = self.graph.shapes[self.graph.output.name]
        out = np.empty((len(x), *shape), np.float32)
        for start in range(0, len(x), self.batch):
            part = x[start : start + self.batch]
            self.program.upload(self._input.images, self._staging.fill(part))
            self.program.run()
            out[start : start + len(part)] = self.program.download(self._output)[: len(part)].reshape(
                -1, *shape
            )
        return out


@dataclass(frozen=True, slots=True)
class Prediction:
    """A forward pass as recorded: its memory is not laid out yet."""

    program: Program
    input: View
    output: View
    buffers: Mapping[str, Float32]
    """What the named buffers hold."""


def record(
    device: OpenCLDevice, graph: Graph, tensors: Tensors, batch: int, fake_quantize: bool = False
) -> Prediction:
    """Record a network's forward pass with these weights."""
    runs, held = _prepare(graph, tensors, fake_quantize)
    points = quantization_points(runs) if fake_quantize else {}
    rounding = {name: range_params(held, name) for name in points.values()}
    units, aliases = fuse(runs, points, training=False)
    program = Program(device, vector_width(runs, device.limits.vector_width), batch)
    values = Values(program, runs, units, separate_raw=False)
    blocks = ParameterBlock(runs.parameters, program.vector), ParameterBlock(runs.state, program.vector)
    places = {name: index for index, name in enumerate(rounding)}
    mode = Mode(training=False, fixed_rounding=rounding if fake_quantize else None)
    forward = Forward(program, runs, values, blocks, mode, places)
    for unit in units:
        forward.record(unit)
    name = runs.output.name
    while name in aliases:
        name = aliases[name]
    prediction = Prediction(
        program,
        values.view(runs.input.name),
        values.view(name),
        {
            "params": blocks[0].pack(held),
            "state": blocks[1].pack(held),
            "quantization": quantization_table(rounding),
        },
    )
    program.hold(prediction.input.images, first=True)
    program.hold(prediction.output.images, last=True)
    return prediction


def quantization_table(rounding: Mapping[str, QuantParams]) -> Float32:
    """The buffer `quantization`: four numbers for each range."""
    rows = [rounding_numbers(params) for params in rounding.values()]
    return np.array(rows or [(1.0, 1.0, 0.0, 0.0)], np.float32).reshape(-1)


def _products(graph: Graph) -> int:
    """How many products all convolutions sum for one image."""
    return sum(convolution_work(graph, node) for node in graph.nodes if isinstance(node, Conv2D))


def _prepare(graph: Graph, tensors: Tensors, fake_quantize: bool) -> tuple[Graph, dict[str, Float32]]:
    """Round the weights where asked to, then fold batch norm where the graph allows it."""
    held = {name: np.asarray(value, np.float32) for name, value in tensors.items()}
    if fake_quantize:
        for node in graph.nodes:
            if isinstance(node, (Conv2D, DepthwiseConv2D)):
                name = f"{node.name}/weight"
                held[name] = fake_quantize_weights(held[name]).astype(np.float32)
    return fold(graph, held)
