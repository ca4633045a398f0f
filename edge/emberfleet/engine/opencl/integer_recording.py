"""Records the launches of an int8 network: its tensors' places, its halos, one operation after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from emberfleet.core.errors import DeviceError
from emberfleet.core.integer import (
    IntegerAdd,
    IntegerAveragePool,
    IntegerConcat,
    IntegerConv,
    IntegerDepthwiseConv,
    IntegerMaxPool,
    IntegerNetwork,
    IntegerOp,
    IntegerRelu,
    IntegerReshape,
    IntegerWindowAveragePool,
    output_limits,
)
from emberfleet.core.nodes import Padding
from emberfleet.core.quantization import QMAX, QMIN
from emberfleet.engine.opencl import depthwise_s8
from emberfleet.engine.opencl.conv2d_s8 import Branch, PackedConvs, forward
from emberfleet.engine.opencl.device import SHORT_WORK, OpenCLDevice
from emberfleet.engine.opencl.dot import Dot, choose_form, exact_form
from emberfleet.engine.opencl.layout import NO_HALO, View, image_shape, round_up
from emberfleet.engine.opencl.network import widest
from emberfleet.engine.opencl.program import ARENA, Argument, Program


@dataclass(frozen=True, slots=True)
class Codes:
    """Compile-time constants of integer.cl: bytes per vector, whether codes are stored with 128 added."""

    v: int
    unsigned: bool


class IntegerRecording:
    """An int8 network as recorded: its memory is not laid out yet.

    Attributes:
        network: What is recorded.
        batch: Images at a time.
        dot: The form of dot product wherever it is exact.
        program: Holds the launches.
        codes: How codes are stored.
        input: Where the rounded image lies.
        output: Where the answer lies.
        quantized: Recorded position of the launch that rounds the input: those before it run once.
        packed: The weights and numbers as kernels read them.
    """

    def __init__(
        self, device: OpenCLDevice, network: IntegerNetwork, batch: int, dot: Dot | None = None
    ) -> None:
        """Record.

        Args:
            device: Where it runs.
            network: What it runs.
            batch: Images at a time.
            dot: The form of dot product wherever it is exact; None: the fastest that the device can do.

        Raises:
            DeviceError: the device lacks that form, or 64-bit integers.
        """
        if not device.limits.int64:
            raise DeviceError(f"'{device.name}' has no 64-bit integers, which int8 networks need")
        self.network, self.batch = network, batch
        self.dot = choose_form(device, dot)
        short = SHORT_WORK if self.dot.grain > 1 else SHORT_WORK // 4
        device = device.suited(batch * _products(network), short)
        self.program = Program(device, device.limits.vector_width, batch, element_bytes=1)
        self.codes = Codes(self.program.vector, bool(self.dot.offset))
        self._halos = _halos(network)
        self._slots = _concat_slots(network, self.program.vector)
        self._views: dict[str, View] = {}
        self._sources: dict[str, str] = {}
        """Of tensors that are others with repeated channels, that other."""
        self.packed = PackedConvs()
        self.input, self.output = self._view(network.input), self._view(network.output)
        for op in network.ops:
            self._view(op.output)
            if isinstance(op, IntegerDepthwiseConv) and op.depth_multiplier > 1:
                self._repeated(op)
        self._fill_halos()
        self.quantized = self._quantize()
        for ops in _together(network, self._views):
            self._record(ops)
        self.program.hold(self.input.images, first=True)
        self.program.hold(self.output.images, last=True)

    @property
    def pixel_bytes(self) -> int:
        """Of the buffer `pixels`: the images, and a vector that may be read behind them."""
        return 4 * (self.batch * math.prod(self.network.input_tensor.shape) + self.program.vector)

    def point(self, name: str) -> int:
        """The zero point of a tensor as it is stored."""
        return self.network.tensors[name].params.zero_point + self.dot.offset

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
        program = self.program
        inside = [child for child, (parent, _) in self._slots.items() if parent == name]
        halo = widest([self._halos.get(child, NO_HALO) for child in (name, *inside)])
        only_conv = all(isinstance(op, IntegerConv) for op in self.network.ops if name in op.inputs)
        if name == self.network.input and only_conv:
            grains = round_up(shape[2], self.dot.grain)
            view = replace(program.images(name, (*shape[:2], grains), halo, padded=False), channels=shape[2])
        else:
            view = program.images(name, shape, halo)
        view.images.has_gaps = False
        return view

    def _fill_halos(self) -> None:
        """Record what runs once: the zero point in every halo, which keeps its bytes from then on."""
        program = self.program
        places = {id(view.images): (name, view.images) for name, view in self._views.items()}
        for name, images in places.values():
            if images.halo == NO_HALO:
                continue
            program.hold(images, first=True, last=True)
            groups = max(1, min(images.floats // 16384, 4 * program.device.limits.compute_units))
            stretch = -(-images.floats // groups)
            point = self.point(self._sources.get(name, name))
            self._emit("fill_s8", (groups,), ARENA, (images,), images.floats, stretch, point)

    def _quantize(self) -> int:
        """Record the rounding of the input; returns its position."""
        params, view = self.network.input_tensor.params, self.input
        inverse = float(np.float32(1.0) / np.float32(params.scale))
        low, high = float(QMIN - params.zero_point), float(QMAX - params.zero_point)
        position = self.program.recorded
        self._emit(
            "quantize_s8", (view.height, view.batch), "pixels", ARENA, view,
            (view.height, view.width, view.channels, view.images.channels),
            (inverse, low, high, float(self.point(self.network.input))),
        )  # fmt: skip
        return position

    def _emit(self, kernel: str, groups: tuple[int, ...], *arguments: Argument) -> None:
        self.program.emit("integer", kernel, groups, *arguments, options=self.codes)

    def _record(self, ops: tuple[IntegerOp, ...]) -> None:
        op = ops[0]
        sources = [self._view(name) for name in op.inputs]
        y = self._view(op.output)
        x = sources[0]
        match op:
            case IntegerConv():
                self._convs([conv for conv in ops if isinstance(conv, IntegerConv)], x)
            case IntegerDepthwiseConv():
                self._depthwise(op, x, y)
            case IntegerMaxPool() | IntegerWindowAveragePool():
                kernel = "max_pool_s8" if isinstance(op, IntegerMaxPool) else "window_average_pool_s8"
                self._emit(
                    kernel, (y.height, y.batch), ARENA, ARENA, x, y, (*op.kernel, *op.stride),
                    (y.width, y.padded_channels, x.height, x.width), op.padding[:2],
                )  # fmt: skip
            case IntegerAveragePool():
                groups = (y.padded_channels // y.vector, y.batch)
                self._emit("average_pool_s8", groups, ARENA, ARENA, x, y, (x.height, x.width))
            case IntegerConcat():
                if any(self._slots.get(name, ("", 0))[0] != op.output for name in op.inputs):
                    first = 0
                    for source in sources:
                        target = y.slice(first, source.channels)
                        self._rows("copy_s8", target, ARENA, ARENA, source, target)
                        first += source.channels
            case IntegerAdd():
                points = tuple(self.point(name) for name in op.inputs)
                self._rows(
                    "add_s8", y, ARENA, ARENA, ARENA, *sources, y,
                    after=(points, (*op.multipliers, 0), (*op.shifts, 0), self._limits(op)),
                )  # fmt: skip
            case IntegerRelu():
                factor = (self.point(op.input), op.multiplier, op.shift, 0)
                self._rows("relu_s8", y, ARENA, ARENA, x, y, after=(factor, self._limits(op)))
            case IntegerReshape():
                shapes = [(v.height, v.width, v.channels, 0) for v in (x, y)]
                self._emit("reshape_s8", (y.batch,), ARENA, ARENA, x, y, *shapes)

    def _rows(
        self, kernel: str, y: View, *arguments: str | View, after: tuple[tuple[int, ...], ...] = ()
    ) -> None:
        """Record a kernel that takes one output row of one image per group."""
        self._emit(kernel, (y.height, y.batch), *arguments, (y.width, y.channels), *after)

    def _convs(self, ops: list[IntegerConv], x: View) -> None:
        branches = [Branch(op, self._view(op.output), self._limits(op)[:3]) for op in ops]
        form = exact_form(self.dot, max(op.weights[0].size for op in ops))
        forward(self.program, x, branches, self.point(ops[0].input), form, self.dot.offset, self.packed)

    def _depthwise(self, op: IntegerDepthwiseConv, x: View, y: View) -> None:
        if op.depth_multiplier > 1:
            wide = self._repeated(op)
            self._emit(
                "repeat_channels_s8", (wide.height, wide.batch),
                ARENA, ARENA, x, wide, (wide.width, wide.channels), op.depth_multiplier,
            )  # fmt: skip
            x = wide
        branch = Branch(op, y, self._limits(op)[:3])
        depthwise_s8.forward(self.program, x, branch, self.point(op.input), self.dot.offset, self.packed)

    def _repeated(self, op: IntegerDepthwiseConv) -> View:
        """The input of a depthwise convolution with a multiplier, each channel as often as it is read."""
        name = f"{op.output} repeated"
        if name not in self._views:
            height, width, channels = image_shape(self.network.tensors[op.input].shape)
            shape = (height, width, channels * op.depth_multiplier)
            self._views[name] = self.program.images(name, shape, op.padding)
            self._views[name].images.has_gaps = False
            self._sources[name] = op.input
        return self._views[name]

    def _limits(
        self, op: IntegerConv | IntegerDepthwiseConv | IntegerAdd | IntegerRelu
    ) -> tuple[int, int, int, int]:
        """Zero point, lowest and highest code as they are stored."""
        params, offset = self.network.tensors[op.output].params, self.dot.offset
        low, high = output_limits(op, params)
        return params.zero_point + offset, low + offset, high + offset, 0


def _together(network: IntegerNetwork, views: Mapping[str, View]) -> Iterator[tuple[IntegerOp, ...]]:
    """The operations in order; convolutions of one tensor into one storage come as one."""
    waiting: list[IntegerOp] = []
    for op in network.ops:
        if waiting and not _joins(waiting[0], op, views):
            yield tuple(waiting)
            waiting = []
        waiting.append(op)
    if waiting:
        yield tuple(waiting)


def _joins(first: IntegerOp, op: IntegerOp, views: Mapping[str, View]) -> bool:
    if not (isinstance(first, IntegerConv) and isinstance(op, IntegerConv)):
        return False
    same = first.input == op.input and first.stride == op.stride
    return same and views[first.output].images is views[op.output].images


def _products(network: IntegerNetwork) -> int:
    """How many products all convolutions sum for one image."""
    convs = [op for op in network.ops if isinstance(op, (IntegerConv, IntegerDepthwiseConv))]
    return sum(op.weights.size * math.prod(network.tensors[op.output].shape[:-1]) for op in convs)


def _halos(network: IntegerNetwork) -> dict[str, Padding]:
    found: dict[str, Padding] = {}
    for op in network.ops:
        if isinstance(op, (IntegerConv, IntegerDepthwiseConv)):
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
