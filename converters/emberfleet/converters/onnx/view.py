"""What a tensor of the ONNX network is in ours: which of our axes lie in each of its dimensions.

ONNX networks lay images out as ``(N, C, H, W)`` or ``(N, H, W, C)``, flatten, transpose and squeeze
them. Our tensors are ``(H, W, C)`` throughout. A `View` keeps, for every dimension of the ONNX
tensor, the axes of ours that are in it, outermost first, so that a Transpose or a Flatten moves no
value: it changes the view, and the weights that read it are brought into our order.

Axes of one pixel, channel or image lie nowhere: they may be dropped or added freely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from emberfleet.core.nodes import Padding, Shape

BATCH = -1
"""The batch as an axis of ours, which has no number."""
OPEN_BATCH = (1 << 20) + 7
"""Stands for a batch of any size: a prime above every axis, so that it stays visible in products."""
Dims = tuple[tuple[int, ...], ...]
NO_PADDING: Padding = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class View:
    """One tensor of the ONNX network.

    Attributes:
        node: Our node that computes its values.
        shape: The shape of that node, without the batch.
        dims: For each dimension, the axes of ours in it.
        batch: Extent of the batch, `OPEN_BATCH` where it is open.
        shared: Whether the values are read through another view too.
        padding: Pixels that a Pad has put around and that the next operator has to take in.
        pad_value: What they hold.
    """

    node: str
    shape: Shape
    dims: Dims
    batch: int
    shared: bool = False
    padding: Padding = NO_PADDING
    pad_value: float = 0.0

    @property
    def sizes(self) -> tuple[int, ...]:
        """The ONNX tensor's shape, the batch included."""
        return tuple(math.prod(self.extent(axis) for axis in dim) for dim in self.dims)

    @property
    def axes(self) -> tuple[int, ...]:
        """All axes in the order in which the ONNX tensor's values run through them."""
        return tuple(axis for dim in self.dims for axis in dim)

    @property
    def in_our_order(self) -> bool:
        """Whether the values run as in our tensor, image by image."""
        return self.axes == tuple(sorted(self.axes))

    def extent(self, axis: int) -> int:
        """Length of one axis of ours."""
        return self.batch if axis == BATCH else self.shape[axis]

    def arranged(self, *dims: tuple[int, ...]) -> View:
        """The same values with these axes in the dimensions; those of extent 1 are left out."""
        return replace(self, dims=tuple(tuple(a for a in dim if self.extent(a) != 1) for dim in dims))

    def permuted(self, order: tuple[int, ...]) -> View:
        """The ONNX tensor's dimensions in another order."""
        return replace(self, dims=tuple(self.dims[index] for index in order))

    def regrouped(self, sizes: tuple[int, ...]) -> View | None:
        """The same values in dimensions of these sizes; None where one of our axes would be cut."""
        left = list(reversed(self.axes))
        dims: list[tuple[int, ...]] = []
        for size in sizes:
            dim: list[int] = []
            filled = 1
            while filled < size and left:
                dim.append(left.pop())
                filled *= self.extent(dim[-1])
            if filled != size:
                return None
            dims.append(tuple(dim))
        return None if left else replace(self, dims=tuple(dims))


def image_view(node: str, shape: Shape, batch: int, channels_last: bool = False) -> View:
    """Our ``(H, W, C)`` as ``(N, C, H, W)``, or ``(N, H, W, C)``."""
    order = ((BATCH,), (0,), (1,), (2,)) if channels_last else ((BATCH,), (2,), (0,), (1,))
    return View(node, shape, (), batch).arranged(*order)
