"""Launch plans: what our own predictors would launch, recorded without a device for hosts of any language.

A plan is made for a family of devices (`engine.opencl.limits`) and a batch of one image. It holds every
launch with its arguments, the programs to build, the buffers and what is in them at first, and where the
input goes and the output lies. docs/formats.md, section Launch plans, says how a host runs one.

Vectors have 4 values in both families and the dot product is the plain one, which every device can do. So
both families read the same packed weights, and these are stored once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from emberfleet.core.arrays import Array, Tensors
from emberfleet.core.graph import Graph
from emberfleet.core.integer import IntegerNetwork
from emberfleet.engine.opencl.device import OpenCLDevice
from emberfleet.engine.opencl.dot import Dot
from emberfleet.engine.opencl.integer_recording import IntegerRecording
from emberfleet.engine.opencl.layout import View
from emberfleet.engine.opencl.limits import FAMILIES, GPU_VECTOR, MOST_LANES, Family, Limits
from emberfleet.engine.opencl.predictor import record
from emberfleet.engine.opencl.program import ARENA, FLOAT_BYTES, Argument, Call, Program, kernel_value

INT8: Final = "int8"
FLOAT32: Final = "float32"
ALIGNMENT: Final = 64
"""Of what lies in the file of constants."""

UNITS: Final[Mapping[Family, int]] = {"cpu": 4, "gpu": 8}
"""Compute units that the work is cut for: more groups than cores cost little, fewer leave cores idle."""

REGISTERS: Final = 16
"""Vector registers of the least processor: x86-64 without AVX-512."""

_BEYOND_ANY: Final = 1 << 62


class Constants:
    """What buffers hold at first, each contents once, in one file."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._places: dict[bytes, int] = {}
        self._size = 0

    def place(self, contents: bytes) -> int:
        """Where these bytes begin in the file."""
        key = hashlib.sha256(contents).digest()
        if key not in self._places:
            self._places[key] = self._size
            padded = contents + bytes(-len(contents) % ALIGNMENT)
            self._pieces.append(padded)
            self._size += len(padded)
        return self._places[key]

    def to_bytes(self) -> bytes:
        """The file."""
        return b"".join(self._pieces)


@dataclass(frozen=True, slots=True)
class Recording:
    """A network's launches as laid out for one image.

    Attributes:
        device: What they were recorded for.
        precision: `INT8` or `FLOAT32`.
        program: Holds the launches and the arena.
        first: Launches in front that run once.
        sizes: Bytes of the buffers beside the arena.
        contents: What of them is not zero at first.
        input: Where the image goes.
        output: Where the answer is.
    """

    device: OpenCLDevice
    precision: str
    program: Program
    first: int
    sizes: Mapping[str, int]
    contents: Mapping[str, Array]
    input: Mapping[str, Any]
    output: Mapping[str, Any]

    @property
    def name(self) -> str:
        """By which a host asks for this plan."""
        return f"{self.precision}-{self.device.family}"

    @property
    def sources(self) -> frozenset[str]:
        """Names of the kernel sources, without ``.cl``."""
        return frozenset(call.source for call in self.program.calls)

    def to_json(self, constants: Constants) -> dict[str, Any]:
        """The plan as it stands in ``plan.json``; its constants are added to those given."""
        calls, lanes, arena = self.program.calls, self.device.lanes, self.program.arena
        assert arena is not None
        used = {argument for call in calls for argument in call.arguments if isinstance(argument, str)}
        sizes = {ARENA: arena.size_bytes, **self.sizes}
        buffers = [name for name in sizes if name in used]
        programs = list(dict.fromkeys(_program(call, self.device) for call in calls))
        return {
            "name": self.name,
            "precision": self.precision,
            "family": self.device.family,
            "lanes": lanes,
            "local_bytes": 4 * GPU_VECTOR * lanes if lanes > 1 else 0,
            "int64": int(self.device.limits.int64),
            "buffers": [
                {
                    "name": name,
                    "bytes": max(sizes[name], ALIGNMENT),
                    "contents": _place(constants, self.contents.get(name)),
                }
                for name in buffers
            ],
            "programs": [{"source": source, "options": list(options)} for source, options in programs],
            "first": self.first,
            "launches": [
                {
                    "program": programs.index(_program(call, self.device)),
                    "kernel": call.kernel,
                    "global": [call.groups[0] * lanes, *(*call.groups[1:], 1, 1)[:2]],
                    "local": [lanes, 1, 1],
                    "arguments": [_argument(argument, buffers) for argument in call.arguments],
                }
                for call in calls
            ],
            "input": {**self.input, "buffer": buffers.index(self.input["buffer"])},
            "output": {**self.output, "buffer": buffers.index(self.output["buffer"])},
        }


def record_integer(network: IntegerNetwork) -> Iterator[Recording]:
    """The int8 network for each family."""
    for family in FAMILIES:
        device = planned_device(family, int64=True)
        recorded = IntegerRecording(device, network, 1, Dot.PLAIN)
        program, packed = recorded.program, recorded.packed
        contents = {
            "weights": np.concatenate([np.zeros(0, np.int8), *packed.weights]),
            "numbers": np.concatenate([np.zeros(0, np.int32), *packed.numbers]),
        }
        sizes = {**{name: values.nbytes for name, values in contents.items()}, "pixels": recorded.pixel_bytes}
        height, width, channels = network.input_tensor.shape
        yield Recording(
            device,
            INT8,
            program,
            program.lay_out()[recorded.quantized],
            sizes,
            contents,
            _place_input(
                "pixels",
                (0, recorded.pixel_bytes),
                (height, width, channels),
                (0, width * channels, channels),
            ),
            _place_output(
                recorded.output,
                "s8",
                1,
                network.output_tensor.params.scale,
                network.output_tensor.params.zero_point,
            ),
        )


def record_float(graph: Graph, tensors: Tensors) -> Iterator[Recording]:
    """The float32 network for each family, batch norm folded."""
    for family in FAMILIES:
        device = planned_device(family, int64=False)
        recorded = record(device, graph, tensors, 1)
        recorded.program.lay_out()
        view = recorded.input
        images, place = view.images, view.place()
        yield Recording(
            device,
            FLOAT32,
            recorded.program,
            0,
            {name: values.nbytes for name, values in recorded.buffers.items()},
            recorded.buffers,
            _place_input(
                ARENA,
                (FLOAT_BYTES * images.offset, FLOAT_BYTES * images.floats),
                (view.height, view.width, view.channels),
                (images.offset + place.start, place.row, place.pixel),
            ),
            _place_output(recorded.output, "f32", FLOAT_BYTES, 1.0, 0),
        )


def planned_device(family: Family, int64: bool) -> OpenCLDevice:
    """A device as plans assume it: nothing of it is opened, it can only be recorded for.

    Without `int64` its programs are built for devices that have no 64-bit integers, and for all others.
    """
    limits = Limits(
        compute_units=UNITS[family],
        vector_width=GPU_VECTOR,
        vector_registers=REGISTERS,
        max_allocation_bytes=_BEYOND_ANY,
        max_work_group=MOST_LANES,
        local_bytes=_BEYOND_ANY,
        int64=int64,
    )
    return OpenCLDevice(
        f"any of family {family}",
        "",
        limits,
        context=None,
        queue=None,
        family=family,
        cpu_registers=REGISTERS,
    )


def float_bits(values: Array) -> list[int]:
    """Float32 values as the integers of their bits: exact, and no decimal point for a parser to read."""
    return [int(bits) for bits in np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32)]


def _place_input(
    buffer: str, stretch: tuple[int, int], shape: tuple[int, int, int], steps: tuple[int, int, int]
) -> dict[str, Any]:
    return {"buffer": buffer, "stretch": list(stretch), "shape": list(shape), "steps": list(steps)}


def _place_output(view: View, kind: str, item: int, scale: float, zero_point: int) -> dict[str, Any]:
    place = view.place()
    return {
        "buffer": ARENA,
        "type": kind,
        "at": item * (view.images.offset + place.start),
        "count": view.channels,
        "scale": float_bits(np.array([scale]))[0],
        "zero_point": zero_point,
    }


def _place(constants: Constants, values: Array | None) -> list[int]:
    """Offset and length in the file of constants; nothing for a buffer of zeros."""
    if values is None or not values.size:
        return []
    contents = np.ascontiguousarray(values).tobytes()
    return [constants.place(contents), len(contents)]


def _program(call: Call, device: OpenCLDevice) -> tuple[str, tuple[str, ...]]:
    """Source file and options of a launch's program."""
    return f"{call.source}.cl", tuple(device.definitions(call.options))


def _argument(argument: Argument, buffers: Sequence[str]) -> list[str | int]:
    if isinstance(argument, str):
        return ["buffer", buffers.index(argument)]
    values = np.atleast_1d(kernel_value(argument))
    if values.dtype == np.float32:
        return ["f32", *float_bits(values)]
    return ["u32" if values.dtype == np.uint32 else "i32", *(int(value) for value in values)]
