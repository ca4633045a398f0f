"""The .tflite on LiteRT or, where that is not published, on the older TFLite runtime: one `Interpreter`.

A batch of its own size is allocated when it is first met; images beyond `batch` run in pieces.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from emberfleet.core.arrays import Float32, Int8
from emberfleet.core.errors import DeviceError, FormatError, ShapeError
from emberfleet.core.quantization import QuantParams


def find_interpreter() -> tuple[Any, Any]:
    """``Interpreter`` and ``OpResolverType`` of ai_edge_litert, else of tflite_runtime.

    Raises:
        DeviceError: neither is installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter, OpResolverType
        except ImportError as error:
            from emberfleet.runtime.extras import install_tflite

            raise DeviceError(
                f"no TFLite runtime is installed: {install_tflite()}, or choose another backend"
            ) from error
    return Interpreter, OpResolverType


class LiteRtPredictor:
    """An int8 .tflite as an `engine.backend.IntegerPredictor`; XNNPACK's operators are within one step."""

    def __init__(self, model: bytes, batch: int = 64, threads: int | None = None) -> None:
        """Load a model that `converters.tflite.write_tflite_int8` wrote.

        Raises:
            DeviceError: no runtime is installed.
            FormatError: the runtime refuses the file.
        """
        interpreter, resolvers = find_interpreter()
        self.batch = batch
        try:
            self._interpreter = interpreter(model_content=model, num_threads=threads)
            try:
                self._interpreter.allocate_tensors()
            except RuntimeError as error:
                import logging

                # XNNPACK refuses scales of very different size (an activation that is next to zero).
                logging.getLogger(__name__).warning(
                    "running without XNNPACK, which refuses this model: %s", error
                )
                plain = resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
                self._interpreter = interpreter(
                    model_content=model, num_threads=threads, experimental_op_resolver_type=plain
                )
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise FormatError(f".tflite: the TFLite runtime refuses it: {error}") from error
        source, target = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        if source["dtype"] is not np.int8 or target["dtype"] is not np.int8:
            raise FormatError(".tflite: expected int8 in and out")
        self._input, self._output = int(source["index"]), int(target["index"])
        self._shape = tuple(int(axis) for axis in source["shape"][1:])
        self._input_params = _params(source)
        self._output_params = _params(target)
        self._count = 1

    def run(self, x: Float32) -> Float32:
        """See `engine.backend.IntegerPredictor.run`."""
        return self._output_params.dequantize(self.run_integer(self._input_params.quantize(x)))

    def run_integer(self, q: Int8) -> Int8:
        """See `engine.backend.IntegerPredictor.run_integer`.

        Raises:
            ShapeError: not int8 images of the model's size, or none.
        """
        if q.dtype != np.int8 or q.shape[1:] != self._shape or not len(q):
            raise ShapeError(
                f"images are {q.dtype} {q.shape}, expected int8 (N, {self._shape}), N at least 1"
            )
        pieces = [self._run_piece(q[start : start + self.batch]) for start in range(0, len(q), self.batch)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _run_piece(self, q: Int8) -> Int8:
        if len(q) != self._count:
            self._interpreter.resize_tensor_input(self._input, q.shape)
            self._interpreter.allocate_tensors()
            self._count = len(q)
        self._interpreter.set_tensor(self._input, q)
        self._interpreter.invoke()
        found: Int8 = self._interpreter.get_tensor(self._output)
        return found


def _params(details: dict[str, Any]) -> QuantParams:
    scale, zero_point = details["quantization"]
    return QuantParams(float(scale), int(zero_point))
