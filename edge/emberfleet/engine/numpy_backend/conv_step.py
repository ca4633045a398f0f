"""The step of a convolution: one GEMM where it is 1 x 1, block by block of images where it is not.

The gathered rows of a block stay in the cache until the product has read them. The backward pass
gathers them again: that costs 1 to 4 % of a training step, keeping them a quarter of its memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from emberfleet.core.arrays import Array
from emberfleet.core.nodes import Conv2D
from emberfleet.core.quantization import fake_quantize_weights
from emberfleet.engine.numpy_backend.conv import RowGather, Window, scatter_rows
from emberfleet.engine.numpy_backend.layout import Delivery
from emberfleet.engine.numpy_backend.step import Site, Step
from emberfleet.engine.numpy_backend.workspace import Buffer

SCRATCH_BYTES = 1 << 21
"""Most bytes of a block's gathered rows, if it holds more than one image."""


@dataclass(frozen=True, slots=True)
class _Block:
    """Views of some images of a batch, and what is computed for them; all blocks share scratch memory."""

    gather: RowGather
    rows: Array
    """``(n*H'*W', KH*KW*C)``, filled by `gather`; then used for what each tap adds to `dx`."""
    ys: Array
    dys: Array
    dx: Array


class ConvStep(Step[Conv2D]):
    """A convolution as one GEMM forward and two backward, per block of images."""

    def __init__(self, node: Conv2D, site: Site) -> None:
        super().__init__(node, site)
        self.window = Window.of(node)
        self.learns = site.gradient("weight") is not None
        now, later = site.forward_time, site.backward_time
        if self.learns:
            site.values[0].buffer.times.add(later)
        self.rounded: Buffer | None = None
        if site.run.fake_quantize:
            self.rounded = self._scratch("rounded", site.tensor("weight").shape, now)
            if site.delivers():
                self.rounded.times.add(later)
        if self.window.pointwise:
            self._plan_pointwise(later)
        else:
            self._plan_blocks(now, later)

    def _plan_pointwise(self, later: int) -> None:
        self.sum: Buffer | None = None
        if self.site.delivers() and self.site.deliveries[0] is Delivery.ADD:
            pixels = math.prod(self.site.output.shape[:-1])
            self.sum = self._scratch("sum", (pixels, self.site.values[0].channels), later)

    def _plan_blocks(self, now: int, later: int) -> None:
        n, *image = self.site.values[0].shape
        row_bytes = math.prod(self.window.rows((1, *image))) * self.site.workspace.dtype.itemsize
        self.block = max(1, min(n, SCRATCH_BYTES // row_bytes))
        self.scratch = [self._plan_gather((self.block, *image), now)]
        self.partial: Buffer | None = None
        if self.learns or self.site.delivers():
            self.scratch.append(self._plan_gather((self.block, *image), later))
        if self.learns and self.block < n:
            self.partial = self._scratch("partial", self.site.tensor("weight").shape, later)

    def _plan_gather(self, shape: tuple[int, ...], time: int) -> tuple[Buffer | None, Buffer]:
        """The padded images and the rows of one block, in use at one time only."""
        padded = None
        if any(self.window.padding):
            padded = self._scratch("padded", self.window.padded(shape), time)
        return padded, self._scratch("rows", self.window.rows(shape), time)

    def _scratch(self, name: str, shape: tuple[int, ...], time: int) -> Buffer:
        buffer = self.site.scratch(name, shape)
        buffer.times.add(time)
        return buffer

    def bind(self) -> None:
        """See `Step.bind`."""
        super().bind()
        weight = self.site.tensor("weight")
        self.weight = self.rounded.array if self.rounded else weight
        self.matrix = self.weight.reshape(len(weight), -1)
        self.bias = self.site.tensor("bias") if self.node.bias else None
        dw = self.site.gradient("weight")
        self.dw = None if dw is None else dw.reshape(self.matrix.shape)
        self.db = self.site.gradient("bias")
        self.ones = np.ones(0 if self.db is None else len(self.dys), weight.dtype)
        if not self.window.pointwise:
            self.forward_blocks, *rest = [self._bind_blocks(*scratch) for scratch in self.scratch]
            self.backward_blocks = rest[0] if rest else []

    def _bind_blocks(self, padded: Buffer | None, rows: Buffer) -> list[_Block]:
        x, made = self.x[0], []
        pixels = math.prod(self.site.output.shape[1:-1])
        for start in range(0, len(x), self.block):
            images = slice(start, start + self.block)
            part = x[images]
            lines = slice(start * pixels, (start + len(part)) * pixels)
            filled = rows.array[: len(part) * pixels]
            border = padded.array[: len(part)] if padded else None
            gather = RowGather(part, self.window, border, filled)
            made.append(_Block(gather, filled, self.ys[lines], self.dys[lines], self.dx[0][images]))
        return made

    def forward(self) -> None:
        """See `Step.forward`."""
        if self.rounded:
            np.copyto(self.weight, fake_quantize_weights(self.site.tensor("weight")))
        if self.window.pointwise:
            np.matmul(self.xs[0], self.matrix.T, out=self.ys)
        else:
            for block in self.forward_blocks:
                block.gather.run()
                np.matmul(block.rows, self.matrix.T, out=block.ys)
        if self.bias is not None:
            self.ys += self.bias

    def backward(self) -> None:
        """See `Step.backward`; the weights' gradient passes their rounding as if it were not there."""
        if self.db is not None:
            np.matmul(self.ones, self.dys, out=self.db)
        if self.window.pointwise:
            self._backward_pointwise()
        else:
            self._backward_blocks()

    def _backward_pointwise(self) -> None:
        if self.dw is not None:
            np.matmul(self.dys.T, self.xs[0], out=self.dw)
        if self.sum:
            np.matmul(self.dys, self.matrix, out=self.sum.array)
            self.dxs[0][...] += self.sum.array
        elif self.site.delivers():
            np.matmul(self.dys, self.matrix, out=self.dxs[0])

    def _backward_blocks(self) -> None:
        for block in self.backward_blocks:
            if self.dw is not None:
                self._add_weight_gradient(self.dw, block)
            if self.site.delivers():
                np.matmul(block.dys, self.matrix, out=block.rows)
                if self.site.deliveries[0] is Delivery.WRITE:
                    block.dx.fill(0)
                scatter_rows(block.rows, self.window, block.dx)

    def _add_weight_gradient(self, dw: Array, block: _Block) -> None:
        """Add one block's share; the first block's is written."""
        block.gather.run()
        if block is self.backward_blocks[0]:
            np.matmul(block.dys.T, block.rows, out=dw)
        elif self.partial:
            partial = self.partial.array.reshape(dw.shape)
            np.matmul(block.dys.T, block.rows, out=partial)
            dw += partial
