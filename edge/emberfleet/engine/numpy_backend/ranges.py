"""Fake quantization of activations: values rounded where int8 inference would round them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from emberfleet.core.arrays import Array, Real
from emberfleet.core.quantization import QuantParams, fake_quantize
from emberfleet.engine.numpy_backend.workspace import Buffer, Slot, Workspace


class Range:
    """One range tensor in use: what it was before the step, and what the step saw."""

    def __init__(self, values: Real, moves: bool) -> None:
        self.values = values
        self.moves = moves
        self.params = QuantParams(1.0, 0)
        self._seen: tuple[float, float] | None = None

    def open(self) -> None:
        """Begin a step: fix the quantization."""
        self.params = QuantParams.from_range(float(self.values[0]), float(self.values[1]))
        self._seen = None

    def observe(self, x: Real) -> None:
        """Take the least and largest value of one tensor that uses this range."""
        low, high = float(x.min()), float(x.max())
        if self._seen is not None:
            low, high = min(low, self._seen[0]), max(high, self._seen[1])
        self._seen = (low, high)

    def close(self, momentum: float) -> None:
        """End a step: ``range = momentum * range + (1 - momentum) * seen``."""
        if self.moves and self._seen is not None:
            self.values *= momentum
            self.values += (1.0 - momentum) * np.array(self._seen, self.values.dtype)


class Rounding:
    """Rounds one tensor in place; the gradient passes where the value was inside the range."""

    def __init__(
        self, value: Slot, dvalue: Slot | None, held: Range, workspace: Workspace, times: tuple[int, int]
    ) -> None:
        self.value, self.dvalue, self.held = value, dvalue, held
        self._inside: Buffer | None = None
        value.buffer.times.add(times[0])
        if dvalue is not None:
            self._inside = workspace.buffer("inside", value.shape, np.bool_)
            self._below = workspace.buffer("below", value.shape, np.bool_)
            self._inside.times.update(times)
            self._below.times.add(times[0])
            dvalue.buffer.times.add(times[1])

    def forward(self, observe: bool) -> None:
        """Round, remembering which values were inside."""
        x: Array = self.value.array
        params = self.held.params
        if observe and self.held.moves:
            self.held.observe(x)
        if self._inside:
            np.greater_equal(x, x.dtype.type(params.low), out=self._inside.array)
            np.less_equal(x, x.dtype.type(params.high), out=self._below.array)
            np.logical_and(self._inside.array, self._below.array, out=self._inside.array)
        fake_quantize(x, params, out=x)

    def backward(self) -> None:
        """Stop the gradient of the values that were cut off."""
        if self._inside and self.dvalue:
            dy = self.dvalue.array
            np.multiply(dy, self._inside.array, out=dy)


def open_all(ranges: Mapping[str, Range]) -> None:
    """Begin a step for every range."""
    for held in ranges.values():
        held.open()
