"""Drawing a network operator by operator: what the float and the int8 writer have in common.

A `Drawing` holds the tensors and operators so far; each method adds one operator, with the padding
that the explicit one comes down to in TensorFlow Lite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from emberfleet.converters.tflite.model import (
    Activation,
    OperatorKind,
    TensorType,
    TfliteModel,
    TfliteOperator,
    TflitePadding,
    TfliteQuantization,
    TfliteTensor,
)
from emberfleet.converters.tflite.windows import NO_PADDING, Pair, Run, Window
from emberfleet.core.arrays import Array, Int32
from emberfleet.core.nodes import Padding, Shape

LOWEST_FLOAT = float(np.finfo(np.float32).min)

CONV_VERSIONS = {
    (OperatorKind.CONV_2D, TensorType.FLOAT32, TensorType.FLOAT32): 1,
    (OperatorKind.CONV_2D, TensorType.INT8, TensorType.INT8): 3,
    (OperatorKind.CONV_2D, TensorType.FLOAT32, TensorType.INT8): 5,
    (OperatorKind.DEPTHWISE_CONV_2D, TensorType.FLOAT32, TensorType.FLOAT32): 1,
    (OperatorKind.DEPTHWISE_CONV_2D, TensorType.INT8, TensorType.INT8): 3,
    (OperatorKind.DEPTHWISE_CONV_2D, TensorType.FLOAT32, TensorType.INT8): 6,
}
"""The version that knows an image and weights of these types, int8 weights per channel.

Source: TensorFlow, mlir/lite/tools/versioning/op_version.cc.
"""

WHOLE_BATCH_AND_CHANNELS = 0b1001
"""The mask of a STRIDED_SLICE that cuts rows and columns alone."""

DEQUANTIZE_VERSIONS = {TensorType.INT8: 2, TensorType.FLOAT16: 3}


class Drawing:
    """Tensors and operators of one element type, added in order."""

    def __init__(self, element: TensorType) -> None:
        self.element = element
        self.tensors: list[TfliteTensor] = []
        self.operators: list[TfliteOperator] = []

    def activation(
        self,
        name: str,
        shape: Shape,
        quantization: TfliteQuantization | None = None,
        element: TensorType | None = None,
    ) -> int:
        """A tensor that is computed; `shape` leaves out the batch."""
        return self._add(TfliteTensor(name, (1, *shape), element or self.element, None, quantization))

    def constant(self, name: str, data: Array, quantization: TfliteQuantization | None = None) -> int:
        """A tensor with data."""
        return self._add(TfliteTensor(name, data.shape, TensorType(data.dtype.name), data, quantization))

    def widened(self, constant: int) -> int:
        """A float16 constant as a tensor of float32, computed once when the file is loaded."""
        half = self.tensors[constant]
        wide = self._add(TfliteTensor(f"{half.name}/wide", half.shape, TensorType.FLOAT32))
        self.dequantize(constant, wide)
        return wide

    def conv(
        self,
        inputs: tuple[int, int, int],
        output: int,
        window: Window,
        activation: Activation,
        depth_multiplier: int | None = None,
    ) -> None:
        """CONV_2D of (image, weights, bias), or DEPTHWISE_CONV_2D; padding reads as zero."""
        scheme, before = window.reach(self._size(inputs[0]))
        image = self._pad(inputs[0], before, None)
        options: dict[str, int | float] = {
            "Padding": scheme,
            "StrideH": window.stride[0],
            "StrideW": window.stride[1],
            "FusedActivationFunction": activation,
        }
        kind = OperatorKind.CONV_2D
        if depth_multiplier is not None:
            kind = OperatorKind.DEPTHWISE_CONV_2D
            options["DepthMultiplier"] = depth_multiplier
        version = CONV_VERSIONS[kind, self.tensors[image].type, self.tensors[inputs[1]].type]
        self._operator(kind, (image, *inputs[1:]), output, options, version)

    def max_pool(self, image: int, output: int, window: Window) -> None:
        """MAX_POOL_2D; padding never wins."""
        scheme, before = window.reach(self._size(image))
        padded = self._pad(image, before, LOWEST_FLOAT if self.element is TensorType.FLOAT32 else -128)
        self._pool(OperatorKind.MAX_POOL_2D, padded, output, window, scheme)

    def average_pool(self, image: int, output: int, window: Window) -> None:
        """AVERAGE_POOL_2D, which does not count padding.

        Where neither scheme reads the same pixels, the windows that lie across the border are pooled
        apart from the others, each group from the pixels it holds, and joined again.
        """
        scheme, before = window.reach(self._size(image))
        if before == NO_PADDING:
            self._pool(OperatorKind.AVERAGE_POOL_2D, image, output, window, scheme)
            return
        rows, columns = window.runs(self._size(image))
        if len(rows) == 1:
            self._pooled_strip(image, rows[0], columns, window.stride, output)
        else:
            self._join([self._pooled_strip(image, row, columns, window.stride) for row in rows], 1, output)

    def global_average_pool(self, image: int, output: int) -> None:
        """AVERAGE_POOL_2D over the whole image, then RESHAPE to ``(C,)``."""
        size = self._size(image)
        channels = self.tensors[image].shape[3]
        pooled = self._like(image, f"{self.tensors[output].name}/mean", (1, 1, channels))
        window = Window(size, (1, 1), NO_PADDING)
        self._pool(OperatorKind.AVERAGE_POOL_2D, image, pooled, window, TflitePadding.VALID)
        self.reshape(pooled, output)

    def reshape(self, source: int, output: int) -> None:
        """RESHAPE that leaves the batch open, so that the file runs with any."""
        shape = np.array([-1, *self.tensors[output].shape[1:]], np.int32)
        target = self.constant(f"{self.tensors[output].name}/shape", shape)
        self._operator(OperatorKind.RESHAPE, (source, target), output, version=1)

    def concat(self, sources: tuple[int, ...], output: int, axis: int = 3) -> None:
        """CONCATENATION, along the channels unless said otherwise."""
        self._operator(OperatorKind.CONCATENATION, sources, output, {"Axis": axis})

    def add(self, sources: tuple[int, int], output: int, activation: Activation) -> None:
        """ADD, with an activation taken in or not."""
        self._operator(OperatorKind.ADD, sources, output, {"FusedActivationFunction": activation})

    def relu(self, source: int, output: int) -> None:
        """RELU that no other operator could take in."""
        self._operator(OperatorKind.RELU, (source,), output)

    def relu6(self, source: int, output: int) -> None:
        """RELU6 that no other operator could take in."""
        self._operator(OperatorKind.RELU6, (source,), output)

    def minimum(self, source: int, output: int, ceiling: float) -> None:
        """MINIMUM of a tensor and one number."""
        number = self.constant(f"{self.tensors[output].name}/ceiling", np.array([ceiling], np.float32))
        self._operator(OperatorKind.MINIMUM, (source, number), output)

    def softmax(self, source: int, output: int) -> None:
        """SOFTMAX over the last axis."""
        version = 2 if self.tensors[source].type is TensorType.INT8 else 1
        self._operator(OperatorKind.SOFTMAX, (source,), output, {"Beta": 1.0}, version)

    def quantize(self, source: int, output: int) -> None:
        """QUANTIZE float32 to int8."""
        self._operator(OperatorKind.QUANTIZE, (source,), output, version=1)

    def dequantize(self, source: int, output: int) -> None:
        """DEQUANTIZE int8 or float16 to float32."""
        version = DEQUANTIZE_VERSIONS[self.tensors[source].type]
        self._operator(OperatorKind.DEQUANTIZE, (source,), output, version=version)

    def model(self, input_tensor: int, output_tensor: int, description: str) -> TfliteModel:
        """What was drawn."""
        return TfliteModel(self.tensors, self.operators, input_tensor, output_tensor, description)

    def _pad(self, image: int, padding: Padding, value: float | None) -> int:
        """The image padded: with real zero (PAD) where `value` is None, else with `value` (PADV2)."""
        if padding == NO_PADDING:
            return image
        before = self.tensors[image]
        top, left, bottom, right = padding
        _, h, w, c = before.shape
        name = f"{before.name}/padded{len(self.tensors)}"
        output = self._like(image, name, (h + top + bottom, w + left + right, c))
        widths = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        amounts = self.constant(f"{name}/widths", widths)
        # The zero point is what PAD fills with: where it is the lowest number there is, PAD serves.
        zero_point = before.quantization.zero_point if before.quantization is not None else None
        if value is None or value == zero_point:
            self._operator(OperatorKind.PAD, (image, amounts), output)
        else:
            filler = np.full((1,), value, before.type.value)
            fill = self.constant(f"{name}/value", filler, before.quantization)
            self._operator(OperatorKind.PADV2, (image, amounts, fill), output)
        return output

    def _pooled_strip(
        self, image: int, row: Run, columns: list[Run], stride: Pair, output: int | None = None
    ) -> int:
        """The means of the windows in one run of rows."""
        if len(columns) == 1:
            return self._pooled_part(image, row, columns[0], stride, output)
        return self._join([self._pooled_part(image, row, column, stride) for column in columns], 2, output)

    def _pooled_part(self, image: int, row: Run, column: Run, stride: Pair, output: int | None = None) -> int:
        """The means of the windows in one run of rows and one of columns: STRIDED_SLICE, AVERAGE_POOL_2D."""
        before = self.tensors[image]
        _, h, w, c = before.shape
        read = [(run.count - 1) * s + run.pixels for run, s in zip((row, column), stride, strict=True)]
        name = f"{before.name}/part{len(self.tensors)}"
        source = image
        if read != [h, w]:
            source = self._like(image, f"{name}/read", (read[0], read[1], c))
            begin: Int32 = np.array([0, row.first, column.first, 0], np.int32)
            end: Int32 = begin + np.array([0, *read, 0], np.int32)
            limits = (begin, end, np.ones(4, np.int32))
            constants = [
                self.constant(f"{name}/{part}", limit)
                for part, limit in zip(("begin", "end", "step"), limits, strict=True)
            ]
            options = {"BeginMask": WHOLE_BATCH_AND_CHANNELS, "EndMask": WHOLE_BATCH_AND_CHANNELS}
            self._operator(OperatorKind.STRIDED_SLICE, (image, *constants), source, options)
        if output is None:
            output = self._like(image, name, (row.count, column.count, c))
        window = Window((row.pixels, column.pixels), stride, NO_PADDING)
        self._pool(OperatorKind.AVERAGE_POOL_2D, source, output, window, TflitePadding.VALID)
        return output

    def _join(self, parts: list[int], axis: int, output: int | None = None) -> int:
        """Images joined along an axis."""
        if output is None:
            shape = list(self.tensors[parts[0]].shape[1:])
            shape[axis - 1] = sum(self.tensors[part].shape[axis] for part in parts)
            name = f"{self.tensors[parts[0]].name}/joined"
            output = self._like(parts[0], name, tuple(shape))
        self.concat(tuple(parts), output, axis)
        return output

    def _like(self, model: int, name: str, shape: Shape) -> int:
        """A tensor that is computed, of the type and on the scale of another."""
        return self.activation(name, shape, self.tensors[model].quantization, self.tensors[model].type)

    def _pool(
        self, kind: OperatorKind, image: int, output: int, window: Window, scheme: TflitePadding
    ) -> None:
        options: dict[str, int | float] = {
            "Padding": scheme,
            "StrideH": window.stride[0],
            "StrideW": window.stride[1],
            "FilterHeight": window.kernel[0],
            "FilterWidth": window.kernel[1],
            "FusedActivationFunction": Activation.NONE,
        }
        self._operator(kind, (image,), output, options)

    def _size(self, image: int) -> Pair:
        _, h, w, _ = self.tensors[image].shape
        return h, w

    def _add(self, tensor: TfliteTensor) -> int:
        assert math.prod(tensor.shape) > 0
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _operator(
        self,
        kind: OperatorKind,
        inputs: tuple[int, ...],
        output: int,
        options: Mapping[str, int | float] | None = None,
        version: int | None = None,
    ) -> None:
        """Add an operator; from version 2 on most know int8."""
        if version is None:
            version = 2 if self.element is TensorType.INT8 else 1
        self.operators.append(TfliteOperator(kind, inputs, (output,), options or {}, version))
