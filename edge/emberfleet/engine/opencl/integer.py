"""Prediction in int8 on OpenCL: the bits of the numpy reference."""

from __future__ import annotations

import numpy as np

from emberfleet.core.arrays import Array, Float32, Int8
from emberfleet.core.errors import ShapeError
from emberfleet.core.integer import IntegerNetwork
from emberfleet.engine.batches import check_codes
from emberfleet.engine.opencl.device import OpenCLDevice
from emberfleet.engine.opencl.dot import Dot
from emberfleet.engine.opencl.integer_recording import IntegerRecording
from emberfleet.engine.opencl.staging import Staging


class OpenCLIntegerPredictor:
    """See `engine.backend.IntegerPredictor`."""

    def __init__(
        self, device: OpenCLDevice, network: IntegerNetwork, batch: int, dot: Dot | None = None
    ) -> None:
        """Record and build; see `IntegerRecording`."""
        recorded = IntegerRecording(device, network, batch, dot)
        self.network, self.batch, self.dot = network, batch, recorded.dot
        self.program = recorded.program
        self._input, self._output = recorded.input, recorded.output
        self._unsigned = recorded.codes.unsigned
        self._start(recorded)

    def run(self, x: Float32) -> Float32:
        """See `engine.backend.IntegerPredictor.run`."""
        shape = self.network.input_tensor.shape
        if x.ndim != 4 or x.shape[1:] != shape:
            raise ShapeError(f"images are {x.shape}, expected (n, {', '.join(map(str, shape))})")
        values = np.asarray(x, np.float32)
        out = self._empty(len(x))
        for start in range(0, len(x), self.batch):
            self.program.write("pixels", values[start : start + self.batch])
            self._finish(out, start, self._first)
        return self.network.output_tensor.params.dequantize(out)

    def run_integer(self, q: Int8) -> Int8:
        """See `engine.backend.IntegerPredictor.run_integer`.

        Raises:
            ShapeError: `q` is not ``(n, H, W, C)`` int8.
        """
        check_codes(self.network.input_tensor.shape, q)
        out = self._empty(len(q))
        for start in range(0, len(q), self.batch):
            part = self._stored(q[start : start + self.batch])
            self.program.upload(self._input.images, self._staging.fill(part))
            self._finish(out, start, self._first + 1)
        return out

    @property
    def first(self) -> int:
        """Position of a run's first kernel: those before it fill halos, once."""
        return self._first

    def _start(self, recorded: IntegerRecording) -> None:
        """Build, copy the weights, fill the halos once: their storages are never shared."""
        packed = recorded.packed
        sizes = {
            "weights": packed.weights_bytes,
            "numbers": 4 * packed.numbers_count,
            "pixels": recorded.pixel_bytes,
        }
        self._first = self.program.compile(sizes)[recorded.quantized]
        for name, parts in (("weights", packed.weights), ("numbers", packed.numbers)):
            start = 0
            for part in parts:
                self.program.write(name, part, start)
                start += part.nbytes
        self.program.run(0, self._first)
        self.program.read("numbers", 1, np.int32)
        kind = np.uint8 if recorded.codes.unsigned else np.int8
        self._staging = Staging(self._input, kind, recorded.point(self.network.input))

    def _finish(self, out: Int8, start: int, first: int) -> None:
        """Run the network on what was uploaded and put its codes where they belong."""
        self.program.run(first)
        part = out[start : start + self.batch]
        part[...] = self._stored(self.program.download(self._output)[: len(part)]).reshape(part.shape)

    def _empty(self, count: int) -> Int8:
        return np.empty((count, *self.network.output_tensor.shape), np.int8)

    def _stored(self, codes: Array) -> Array:
        """Codes as they are stored, or the other way round: adding 128 is flipping the highest bit."""
        return codes ^ np.int8(-128) if self._unsigned else codes
