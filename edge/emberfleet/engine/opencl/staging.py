"""The network's input on the host, laid out as kernels read it."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from emberfleet.core.arrays import Array
from emberfleet.engine.opencl.layout import View


class Staging:
    """The network's input as it lies in the arena, on the host."""

    def __init__(self, view: View, kind: DTypeLike = np.float32, padding: int = 0) -> None:
        images = view.images
        self.values: Array = np.full(images.floats, padding, kind)
        columns = images.padded_row // images.channels
        shaped = self.values.reshape(images.batch, -1, columns, images.channels)
        top, left = images.halo[:2]
        self._inside = shaped[:, top : top + view.height, left : left + view.width, : view.channels]

    def fill(self, x: Array) -> Array:
        """Put a batch in its place; images missing from a last batch stay what they were."""
        self._inside[: len(x)] = x
        return self.values
