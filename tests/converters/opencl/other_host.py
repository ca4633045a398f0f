"""Another host: runs a launch plan by plain OpenCL calls as docs/formats.md says, without our engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyopencl as cl

from emberfleet.core.arrays import Array, Float32, UInt8

FOLDER = "opencl/"
KINDS = {"i32": np.int32, "u32": np.uint32, "f32": np.uint32}
OUTPUTS = {"s8": np.int8, "f32": np.float32}


class OtherHost:
    """One plan of an OpenCL part, ready to run."""

    def __init__(self, context: cl.Context, parts: Mapping[str, bytes], name: str) -> None:
        document = json.loads(parts[f"{FOLDER}plan.json"])
        self.pixels = document.get("pixels")
        self.plan = next(plan for plan in document["plans"] if plan["name"] == name)
        self.queue = cl.CommandQueue(context)
        constants = parts[FOLDER + document["constants"]]
        self.buffers = []
        for buffer in self.plan["buffers"]:
            contents = bytearray(buffer["bytes"])
            if buffer["contents"]:
                start, size = buffer["contents"]
                contents[:size] = constants[start : start + size]
            flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
            self.buffers.append(cl.Buffer(context, flags, hostbuf=np.frombuffer(contents, np.uint8)))
        prelude = parts[f"{FOLDER}kernels/prelude.cl"].decode()
        programs = []
        for program in self.plan["programs"]:
            text = parts[f"{FOLDER}kernels/{program['source']}"].decode()
            programs.append(cl.Program(context, prelude + "\n" + text).build(program["options"]))
        self.launches = []
        for launch in self.plan["launches"]:
            kernel = cl.Kernel(programs[launch["program"]], launch["kernel"])
            kernel.set_args(*(self._argument(*argument) for argument in launch["arguments"]))
            self.launches.append((kernel, tuple(launch["global"]), tuple(launch["local"])))
        self._launch(0, self.plan["first"])

    def run_pixels(self, pixels: UInt8) -> Array:
        """The output for one image of bytes."""
        scale = np.array(self.pixels["scale"], np.uint32).view(np.float32)
        shift = np.array(self.pixels["shift"], np.uint32).view(np.float32)
        return self.run(pixels.astype(np.float32) * scale + shift)

    def run(self, image: Float32) -> Array:
        """The output for one ``(H, W, C)`` of preprocessed values: codes or real numbers."""
        given, made = self.plan["input"], self.plan["output"]
        begin, size = given["stretch"]
        first, row, pixel = given["steps"]
        staged = np.zeros(size // 4, np.float32)
        for h, w, c in np.ndindex(*given["shape"]):
            staged[first - begin // 4 + h * row + w * pixel + c] = image[h, w, c]
        cl.enqueue_copy(self.queue, self.buffers[given["buffer"]], staged, dst_offset=begin)
        self._launch(self.plan["first"], len(self.launches))
        out = np.empty(made["count"], OUTPUTS[made["type"]])
        cl.enqueue_copy(self.queue, out, self.buffers[made["buffer"]], src_offset=made["at"])
        return out

    def _launch(self, start: int, stop: int) -> None:
        for kernel, items, group in self.launches[start:stop]:
            cl.enqueue_nd_range_kernel(self.queue, kernel, items, group)

    def _argument(self, kind: str, *numbers: int) -> Any:
        if kind == "buffer":
            return self.buffers[numbers[0]]
        return np.array(numbers, KINDS[kind])
