"""The step of a convolution: one GEMM where it is 1 x 1, gathered rows and one GEMM where it is not."""

from __future__ import annotations

import numpy as np

from emberfleet.core.arrays import Array
from emberfleet.core.graph import (
    Conv2D,
)
from emberfleet.core.quantization import fake_quantize_weights
from emberfleet.engine.numpy_backend.conv import RowGather, Window, flip_weights, scatter_rows
from emberfleet.engine.numpy_backend.layout import Delivery
from emberfleet.engine.numpy_backend.step import Site, Step
from emberfleet.engine.numpy_backend.workspace import Buffer

SCRATCH_BYTES = 1 << 20
"""Rows of a convolution's backward pass are made in blocks of about this size, to stay in the cache."""


class ConvStep(Step[Conv2D]):
    """A convolution as one GEMM forward and two backward."""

    def __init__(self, node: Conv2D, site: Site) -> None:
        super().__init__(node, site)
        self.window = Window.of(node)
        shape = site.values[0].shape
        now, later = site.forward_time, site.backward_time
        learns = site.gradient("weight") is not None
        if learns and self.window.pointwise:
            site.values[0].buffer.times.add(later)
        self.padded = self._padding(shape, self.window, now)
        self.rows: Buffer | None = None
        if not self.window.pointwise:
            self.rows = site.scratch("rows", self.window.rows(shape))
            self.rows.times.update((now, later) if learns else (now,))
        self.ones = np.ones(int(np.prod(site.output.shape[:-1])), site.workspace.dtype)
        self.rounded: Buffer | None = None
        if site.run.fake_quantize:
            self.rounded = site.scratch("rounded", site.tensor("weight").shape)
            self.rounded.times.update((now, later) if site.delivers() else (now,))
        self._plan_backward(shape)

    def _padding(self, shape: tuple[int, ...], window: Window, time: int) -> Buffer | None:
        if not any(window.padding):
            return None
        buffer = self.site.scratch("padded", window.padded(shape))
        buffer.times.add(time)
        return buffer

    def _plan_backward(self, shape: tuple[int, ...]) -> None:
        site, later = self.site, self.site.backward_time
        self.adjoint: Window | None = None
        self.dpadded: Buffer | None = None
        self.drows: Buffer | None = None
        self.flipped: Buffer | None = None
        self.share: Buffer | None = None
        self.sum: Buffer | None = None
        if not site.delivers():
            return
        o, kh, kw, c = site.tensor("weight").shape
        if self.window.pointwise:
            if site.deliveries[0] is Delivery.ADD:
                self.sum = site.scratch("sum", (len(self.ones), c))
                self.sum.times.add(later)
            return
        self.adjoint = self.window.adjoint()
        if self.adjoint is None:
            self.share = site.scratch("share", (kh * kw, len(self.ones), c))
            self.share.times.add(later)
            return
        n = shape[0]
        per_image = (
            int(np.prod(self.adjoint.rows((1, *site.output.shape[1:])))) * site.workspace.dtype.itemsize
        )
        self.block = max(1, min(n, SCRATCH_BYTES // per_image))
        block_shape = (self.block, *site.output.shape[1:])
        self.dpadded = self._padding(block_shape, self.adjoint, later)
        self.drows = site.scratch("drows", self.adjoint.rows(block_shape))
        self.flipped = site.scratch("flipped", (kh * kw * o, c))
        self.sum = site.scratch("sum", (self.block * shape[1] * shape[2], c))
        for buffer in (self.drows, self.flipped, self.sum):
            buffer.times.add(later)

    def bind(self) -> None:
        """See `Step.bind`."""
        super().bind()
        weight = self.site.tensor("weight")
        self.weight = self.rounded.array if self.rounded else weight
        self.matrix = self.weight.reshape(len(weight), -1)
        self.bias = self.site.tensor("bias") if self.node.bias else None
        dw, db = self.site.gradient("weight"), self.site.gradient("bias")
        self.dw = None if dw is None else dw.reshape(self.matrix.shape)
        self.db = db
        self.gather: RowGather | None = None
        self.a = self.xs[0]
        if self.rows:
            self.a = self.rows.array
            padded = self.padded.array if self.padded else None
            self.gather = RowGather(self.x[0], self.window, padded, self.a)
        if self.adjoint is not None:
            self.blocks = [self._bind_block(start) for start in range(0, len(self.dy), self.block)]
        if self.share is not None:
            o, kh, kw, c = weight.shape
            self.taps = self.window.taps(self.x[0].shape[1:3])
            self.tap_weights = np.empty((kh * kw, o, c), weight.dtype)

    def _bind_block(self, start: int) -> tuple[RowGather, Array, Array, Array]:
        """The gather, its rows, the product and its target for one block of images."""
        assert self.adjoint is not None
        assert self.drows is not None
        assert self.sum is not None
        dy, dx = self.dy[start : start + self.block], self.dx[0][start : start + self.block]
        padded = self.dpadded.array[: len(dy)] if self.dpadded else None
        rows = self.drows.array[: self.adjoint.rows(dy.shape)[0]]
        product = self.sum.array[: len(rows)]
        return RowGather(dy, self.adjoint, padded, rows), rows, product.reshape(dx.shape), dx

    def forward(self) -> None:
        """See `Step.forward`."""
        if self.rounded:
            np.copyto(self.weight, fake_quantize_weights(self.site.tensor("weight")))
        if self.gather:
            self.gather.run()
        np.matmul(self.a, self.matrix.T, out=self.ys)
        if self.bias is not None:
            self.ys += self.bias

    def backward(self) -> None:
        """See `Step.backward`; the weights' gradient passes their rounding as if it were not there."""
        if self.dw is not None:
            np.matmul(self.dys.T, self.a, out=self.dw)
        if self.db is not None:
            np.matmul(self.ones, self.dys, out=self.db)
        if self.site.delivers():
            self._input_gradient()

    def _input_gradient(self) -> None:
        add = self.site.deliveries[0] is Delivery.ADD
        if self.adjoint is not None:
            assert self.flipped is not None
            flip_weights(self.weight, self.flipped.array)
            for gather, rows, product, target in self.blocks:
                gather.run()
                np.matmul(rows, self.flipped.array, out=product.reshape(len(rows), -1))
                if add:
                    target += product
                else:
                    np.copyto(target, product)
        elif self.share is not None:
            np.copyto(self.tap_weights.reshape(*self.weight.shape[1:3], len(self.weight), -1),
                      self.weight.transpose(1, 2, 0, 3))  # fmt: skip
            np.matmul(self.dys, self.tap_weights, out=self.share.array)
            if not add:
                self.dx[0].fill(0)
            scatter_rows(
                self.share.array.reshape(len(self.taps), *self.dy.shape[:3], -1), self.taps, self.dx[0]
            )
        elif self.sum is not None:
            np.matmul(self.dys, self.matrix, out=self.sum.array)
            self.dxs[0][...] += self.sum.array
        else:
            np.matmul(self.dys, self.matrix, out=self.dxs[0])
