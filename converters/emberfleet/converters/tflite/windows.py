"""Kernels that slide over a padded image, in the two schemes of padding that TensorFlow Lite has."""

from __future__ import annotations

from dataclasses import dataclass

from emberfleet.converters.tflite.model import TflitePadding
from emberfleet.core.nodes import Padding, same_padding

Pair = tuple[int, int]
NO_PADDING: Padding = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Run:
    """Windows side by side along one axis that hold equally many pixels of the image."""

    first: int
    """Where the first of them begins, in pixels of the image."""
    pixels: int
    """How many pixels each holds."""
    count: int


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
        top, left, _, _ = self.padding
        outputs = self._outputs(size)
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

    def runs(self, size: Pair) -> tuple[list[Run], list[Run]]:
        """The windows of each axis, cut to the pixels of an image of `size`."""
        top, left, _, _ = self.padding
        rows, columns = (
            _runs(n, k, s, first, out)
            for n, k, s, first, out in zip(
                size, self.kernel, self.stride, (top, left), self._outputs(size), strict=True
            )
        )
        return rows, columns

    def _outputs(self, size: Pair) -> list[int]:
        top, left, bottom, right = self.padding
        return [
            (n + sum(pads) - k) // s + 1
            for n, pads, k, s in zip(
                size, ((top, bottom), (left, right)), self.kernel, self.stride, strict=True
            )
        ]


def _runs(size: int, kernel: int, stride: int, padding: int, outputs: int) -> list[Run]:
    found: list[Run] = []
    for place in range(outputs):
        begin = place * stride - padding
        first, pixels = max(begin, 0), min(begin + kernel, size) - max(begin, 0)
        last = found[-1] if found else None
        if last and pixels == last.pixels and first == last.first + last.count * stride:
            found[-1] = Run(last.first, pixels, last.count + 1)
        else:
            found.append(Run(first, pixels, 1))
    return found
