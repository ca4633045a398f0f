"""Prediction in int8 on OpenCL: the bits of the numpy reference."""

from __future__ import annotations

import numpy as np

from emberfleet.core.arrays import Array, Float32, Int8
from emberfleet.core.graph import Padding
from emberfleet.core.integer import (
    IntegerAdd,
    IntegerAveragePool,
    IntegerConcat,
    IntegerConv,
    IntegerMaxPool,
    IntegerNetwork,
    IntegerOp,
    IntegerRelu,
    IntegerReshape,
    output_limits,
)
from emberfleet.engine.batches import check_codes
from emberfleet.engine.opencl import conv2d_s8
from emberfleet.engine.opencl.conv2d_s8 import Dot
from emberfleet.engine.opencl.device import OpenCLDevice
from emberfleet.engine.opencl.layout import NO_HALO, View, image_shape
from emberfleet.engine.opencl.network import widest
from emberfleet.engine.opencl.predictor import Staging
from emberfleet.engine.opencl.program import ARENA, Program


class OpenCLIntegerPredictor:
    """See `engine.backend.IntegerPredictor`."""

    def __init__(
        self, device: OpenCLDevice, network: IntegerNetwork, batch: int, dot: Dot | None = None
    ) -> None:
        """Record and build.

        Args:
            device: Where it runs.
            network: What it runs.
            batch: Images at a time.
            dot: The form of dot product wherever it is exact; None: the fastest exact one.
        """
        self.network, self.batch = network, batch
        self.program = Program(device, device.limits.vector_width, batch, element_bytes=1)
        self._wanted = dot
        self._halos = _halos(network)
        self._slots = _concat_slots(network, self.program.vector)
        self._views: dict[str, View] = {}
        self._packed: dict[str, list[Array]] = {"weights_f32": [], "weights_s8": [], "numbers": []}
        for op in network.ops:
            self._record(op)
        self._input, self._output = self._view(network.input), self._view(network.output)
        self.program.hold(self._input.images, first=True)
        self.program.hold(self._output.images, last=True)
        packed = {
            name: np.concatenate([array.reshape(-1) for array in arrays]) if arrays else np.zeros(1, np.int32)
            for name, arrays in self._packed.items()
        }
        self.program.compile({name: values.nbytes for name, values in packed.items()})
        for name, values in packed.items():
            self.program.write(name, values)
        point = network.input_tensor.params.zero_point
        self._staging = Staging(self._input, np.int8, point)

    def run(self, x: Float32) -> Float32:
        """See `engine.backend.IntegerPredictor.run`."""
        q = self.run_integer(self.network.input_tensor.params.quantize(x))
        return self.network.output_tensor.params.dequantize(q)

    def run_integer(self, q: Int8) -> Int8:
        """See `engine.backend.IntegerPredictor.run_integer`.

        Raises:
            ShapeError: `q` is not ``(n, H, W, C)`` int8.
        """
        check_codes(self.network.input_tensor.shape, q)
        shape = self.network.output_tensor.shape
        out = np.empty((len(q), *shape), np.int8)
        for start in range(0, len(q), self.batch):
            part = q[start : start + self.batch]
            self.program.upload(self._input.images, self._staging.fill(part))
            self.program.run()
            found = self.program.download(self._output)[: len(part)]
            out[start : start + len(part)] = found.reshape(-1, *shape)
        return out

    def _view(self, name: str) -> View:
        if name not in self._views:
            shape = image_shape(self.network.tensors[name].shape)
            if name in self._slots:
                parent, first = self._slots[name]
                self._views[name] = self._view(parent).slice(first, shape[2])
            else:
                self._views[name] = self._place(name, shape)
        return self._views[name]

    def _place(self, name: str, shape: tuple[int, int, int]) -> View:
        """New storage; a halo is filled with the zero point before the tensor is written."""
        program = self.program
        inside = [child for child, (parent, _) in self._slots.items() if parent == name]
        halo = widest([self._halos.get(child, NO_HALO) for child in (name, *inside)])
        is_input = name == self.network.input
        only_conv = all(isinstance(op, IntegerConv) for op in self.network.ops if name in op.inputs)
        view = program.images(name, shape, halo, padded=not (is_input and only_conv))
        view.images.has_gaps = False
        if halo != NO_HALO and not is_input:
            groups = max(1, min(view.images.floats // 16384, 4 * program.device.limits.compute_units))
            stretch = -(-view.images.floats // groups)
            point = self.network.tensors[name].params.zero_point
            program.emit(
                "integer", "fill_s8", (groups,),
                ARENA, (view.images,), view.images.floats, stretch, point,
            )  # fmt: skip
        return view

    def _record(self, op: IntegerOp) -> None:
        program = self.program
        sources = [self._view(name) for name in op.inputs]
        y = self._view(op.output)
        x = sources[0]
        match op:
            case IntegerConv():
                self._conv(op, x, y)
            case IntegerMaxPool():
                program.emit(
                    "integer", "max_pool_s8", (y.height, y.batch), ARENA, ARENA, x, y,
                    (*op.kernel, *op.stride), (y.width, y.channels, x.height, x.width), op.padding[:2],
                )  # fmt: skip
            case IntegerAveragePool():
                size = (x.height, x.width, x.channels, 0)
                program.emit("integer", "average_pool_s8", (y.batch,), ARENA, ARENA, x, y, size)
            case IntegerConcat():
                if any(self._slots.get(name, ("", 0))[0] != op.output for name in op.inputs):
                    first = 0
                    for source in sources:
                        target = y.slice(first, source.channels)
                        self._rows("copy_s8", target, ARENA, ARENA, source, target)
                        first += source.channels
            case IntegerAdd():
                points = tuple(self.network.tensors[name].params.zero_point for name in op.inputs)
                self._rows(
                    "add_s8", y, ARENA, ARENA, ARENA, *sources, y,
                    after=(points, (*op.multipliers, 0), (*op.shifts, 0), self._limits(op)),
                )  # fmt: skip
            case IntegerRelu():
                factor = (self.network.tensors[op.input].params.zero_point, op.multiplier, op.shift, 0)
                self._rows("relu_s8", y, ARENA, ARENA, x, y, after=(factor, self._limits(op)))
            case IntegerReshape():
                shapes = [(v.height, v.width, v.channels, 0) for v in (x, y)]
                program.emit("integer", "reshape_s8", (y.batch,), ARENA, ARENA, x, y, *shapes)

    def _rows(
        self, kernel: str, y: View, *arguments: str | View, after: tuple[tuple[int, ...], ...] = ()
    ) -> None:
        """Record a kernel that takes one output row of one image per group."""
        groups = (y.height, y.batch)
        self.program.emit("integer", kernel, groups, *arguments, (y.width, y.channels), *after)

    def _conv(self, op: IntegerConv, x: View, y: View) -> None:
        forms = conv2d_s8.allowed_forms(op)
        dot = self._wanted if self._wanted in forms else forms[0]
        assert dot is not None
        weights = self._packed["weights_f32" if dot is Dot.FLOAT else "weights_s8"]
        numbers = self._packed["numbers"]
        offsets = (sum(a.size for a in weights), sum(a.size for a in numbers))
        weights.append(conv2d_s8.pack_weights(op, dot, y.padded_channels))
        point = self.network.tensors[op.input].params.zero_point
        numbers.append(conv2d_s8.pack_numbers(op, point, y.padded_channels))
        conv2d_s8.forward(self.program, x, y, op, dot, offsets, self._limits(op)[:3])

    def _limits(self, op: IntegerConv | IntegerAdd | IntegerRelu) -> tuple[int, int, int, int]:
        params = self.network.tensors[op.output].params
        low, high = output_limits(op, params)
        return params.zero_point, low, high, 0


def _halos(network: IntegerNetwork) -> dict[str, Padding]:
    found: dict[str, Padding] = {}
    for op in network.ops:
        if isinstance(op, IntegerConv):
            found[op.input] = widest([found.get(op.input, NO_HALO), op.padding])
    return found


def _concat_slots(network: IntegerNetwork, vector: int) -> dict[str, tuple[str, int]]:
    """Tensors written in place as channels of a Concat: that one, and the first channel.

    A Concat inside a Concat is copied, so that a storage is filled before anything is written to it.
    """
    concats = {op.output for op in network.ops if isinstance(op, IntegerConcat)}
    slots: dict[str, tuple[str, int]] = {}
    for op in network.ops:
        if not isinstance(op, IntegerConcat):
            continue
        first = 0
        wanted: dict[str, tuple[str, int]] = {}
        for name in op.inputs:
            wanted[name] = (op.output, first)
            first += image_shape(network.tensors[name].shape)[2]
        free = len(wanted) == len(op.inputs) and not any(
            name in slots or name in concats or name == network.input for name in wanted
        )
        if free and all(start % vector == 0 for _, start in wanted.values()):
            slots.update(wanted)
    return slots
