"""Weights as convolutions read them: rounded to 8 bits where training rounds, and transposed for backward."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from emberfleet.core.arrays import Int32
from emberfleet.core.nodes import Conv2D, DepthwiseConv2D
from emberfleet.engine.opencl.layout import round_up
from emberfleet.engine.opencl.parameters import ParameterBlock
from emberfleet.engine.opencl.program import Program

MOST_CUTS = 64
"""Groups that share one window place at most; fewer outputs than that leave some without work."""


class PackedWeights:
    """Offsets of rounded and transposed weights in the buffer `packed`, and the jobs that fill them."""

    def __init__(
        self,
        convolutions: Iterable[Conv2D | DepthwiseConv2D],
        params: ParameterBlock,
        rounded: bool,
        transposed: frozenset[str],
        vector: int,
    ) -> None:
        self.rounded_at: dict[str, int] = {}
        self.transposed_at: dict[str, int] = {}
        self.floats = 0
        self._source = "packed" if rounded else "params"
        rounding: list[tuple[int, ...]] = []
        turning: list[tuple[int, ...]] = []
        for node in convolutions:
            name = f"{node.name}/weight"
            entry = params.entries[name]
            outputs, kh, kw, channels = entry.shape
            taps, padded = kh * kw, entry.padded
            at = entry.offset
            if rounded:
                at = self.rounded_at[name] = self._take(entry.floats)
                rounding += [
                    (entry.offset, at, taps * channels, padded, first, 0, 0, 0)
                    for first in range(0, padded, vector)
                ]
            if node.name in transposed and isinstance(node, Conv2D):
                wide = round_up(channels, vector)
                to = self.transposed_at[name] = self._take(taps * outputs * wide)
                turning += [(at, to, taps, tap, channels, outputs, padded, wide) for tap in range(taps)]
        self.rounding_jobs = _table(rounding)
        self.turning_jobs = _table(turning)

    def record(self, program: Program) -> None:
        """Record what brings `packed` up to date with `params`."""
        if len(self.rounding_jobs):
            program.emit(
                "weights",
                "round_weights_f32",
                (len(self.rounding_jobs),),
                "params",
                "packed",
                "rounding_jobs",
            )
        if len(self.turning_jobs):
            cuts = program.device.cuts(len(self.turning_jobs), MOST_CUTS)
            program.emit(
                "weights",
                "transpose_weights_f32",
                (len(self.turning_jobs), cuts),
                self._source,
                "packed",
                "turning_jobs",
            )

    def _take(self, floats: int) -> int:
        start = self.floats
        self.floats += floats
        return start


def _table(rows: list[tuple[int, ...]]) -> Int32:
    return np.array(rows, np.int32).reshape(-1, 8)
