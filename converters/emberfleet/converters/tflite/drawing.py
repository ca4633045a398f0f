"""Drawing a network operator by operator: what the float and the int8 writer have in common.

A `Drawing` holds the tensors and operators so far; each method adds one operator, with the padding
that the explicit one comes down to in TensorFlow Lite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
from emberfleet.core.arrays import Array
from emberfleet.core.graph import Padding, Shape, same_padding

Pair = tuple[int, int]
NO_PADDING: Padding = (0, 0, 0, 0)
LOWEST_FLOAT = float(np.finfo(np.float32).min)


@dataclass(frozen=True, slots=True)
class Window:
    """A kernel that slides over an image with explicit padding."""

    kernel: Pair
    stride: Pair
    padding: Padding

    def reach(self, size: Pair) -> tuple[TflitePadding, Padding]:
        """The padding scheme over an image of `size`, and what must be padded before it.

        SAME and VALID are named where they read the same pixels; padding at the end that no window
        reaches does not count. Otherwise: VALID over the image padded first.
        """
        top, left, bottom, right = self.padding
        outputs = [
            (n + sum(pads) - k) // s + 1
            for n, pads, k, s in zip(
                size, ((top, bottom), (left, right)), self.kernel, self.stride, strict=True
            )
        ]
        read = [
            max((out - 1) * s + k - n - first, 0)
            for out, s, k, n, first in zip(outputs, self.stride, self.kernel, size, (top, left), strict=True)
        ]
        needed: Padding = (top, left, read[0], read[1])
        if needed == NO_PADDING:
            return TflitePadding.VALID, NO_PADDING
        if outputs == [-(-n // s) for n, s in zip(size, self.stride, strict=True)]:
            if needed == same_padding(size, self.kernel, self.stride):
                return TflitePadding.SAME, NO_PADDING
        return TflitePadding.VALID, needed


class Drawing:
    """Tensors and operators of one element type, added in order."""

    def __init__(self, element: TensorType) -> None:
        self.element = element
        self.tensors: list[TfliteTensor] = []
        self.operators: list[TfliteOperator] = []
        # From version 2 on the operators know int8, convolutions per channel from version 3 on.
        self.version = 2 if element is TensorType.INT8 else 1
        self.conv_version = 3 if element is TensorType.INT8 else 1

    def activation(self, name: str, shape: Shape, quantization: TfliteQuantization | None = None) -> int:
        """A tensor that is computed; `shape` leaves out the batch."""
        return self._add(TfliteTensor(name, (1, *shape), self.element, None, quantization))

    def constant(self, name: str, data: Array, quantization: TfliteQuantization | None = None) -> int:
        """A tensor with data."""
        return self._add(TfliteTensor(name, data.shape, TensorType(data.dtype.name), data, quantization))

    def conv(self, inputs: tuple[int, int, int], output: int, window: Window, relu: bool) -> None:
        """CONV_2D of (image, weights, bias); padding reads as zero."""
        scheme, before = window.reach(self._size(inputs[0]))
        image = self._pad(inputs[0], before, None)
        self._operator(
            OperatorKind.CONV_2D,
            (image, *inputs[1:]),
            output,
            {
                "Padding": scheme,
                "StrideH": window.stride[0],
                "StrideW": window.stride[1],
                "FusedActivationFunction": Activation.RELU if relu else Activation.NONE,
            },
            self.conv_version,
        )

    def max_pool(self, image: int, output: int, window: Window) -> None:
        """MAX_POOL_2D; padding never wins."""
        scheme, before = window.reach(self._size(image))
        padded = self._pad(image, before, LOWEST_FLOAT if self.element is TensorType.FLOAT32 else -128)
        self._operator(OperatorKind.MAX_POOL_2D, (padded,), output, _pool_options(window, scheme))

    def global_average_pool(self, image: int, output: int) -> None:
        """AVERAGE_POOL_2D over the whole image, then RESHAPE to ``(C,)``."""
        size = self._size(image)
        before = self.tensors[image]
        pooled = self.activation(
            f"{self.tensors[output].name}/mean", (1, 1, before.shape[3]), before.quantization
        )
        window = Window(size, (1, 1), NO_PADDING)
        self._operator(
            OperatorKind.AVERAGE_POOL_2D, (image,), pooled, _pool_options(window, TflitePadding.VALID)
        )
        self.reshape(pooled, output)

    def reshape(self, source: int, output: int) -> None:
        """RESHAPE that leaves the batch open, so that the file runs with any."""
        shape = np.array([-1, *self.tensors[output].shape[1:]], np.int32)
        target = self.constant(f"{self.tensors[output].name}/shape", shape)
        self._operator(OperatorKind.RESHAPE, (source, target), output, version=1)

    def concat(self, sources: tuple[int, ...], output: int) -> None:
        """CONCATENATION along the channels."""
        self._operator(OperatorKind.CONCATENATION, sources, output, {"Axis": 3})

    def add(self, sources: tuple[int, int], output: int, relu: bool) -> None:
        """ADD, with a ReLU taken in or not."""
        fused = Activation.RELU if relu else Activation.NONE
        self._operator(OperatorKind.ADD, sources, output, {"FusedActivationFunction": fused})

    def relu(self, source: int, output: int) -> None:
        """RELU that no other operator could take in."""
        self._operator(OperatorKind.RELU, (source,), output)

    def softmax(self, source: int, output: int) -> None:
        """SOFTMAX over the last axis."""
        self._operator(OperatorKind.SOFTMAX, (source,), output, {"Beta": 1.0})

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
        output = self.activation(name, (h + top + bottom, w + left + right, c), before.quantization)
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
        options: dict[str, int | float] | None = None,
        version: int | None = None,
    ) -> None:
        self.operators.append(
            TfliteOperator(
                kind, inputs, (output,), options or {}, self.version if version is None else version
            )
        )


def _pool_options(window: Window, scheme: TflitePadding) -> dict[str, int | float]:
    return {
        "Padding": scheme,
        "StrideH": window.stride[0],
        "StrideW": window.stride[1],
        "FilterHeight": window.kernel[0],
        "FilterWidth": window.kernel[1],
        "FusedActivationFunction": Activation.NONE,
    }
