"""One step per node: it asks for its buffers once, then runs forward and backward on fixed views.

A step's life: `__init__` requests scratch buffers and says at which times it touches what;
`bind` takes the views once the arena exists; `forward` and `backward` compute and allocate
nothing that grows with the batch, but for a few temporaries of BLAS and ufunc size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from emberfleet.core.arrays import Array, Real
from emberfleet.core.graph import (
    Add,
    BatchNorm,
    Concat,
    Conv2D,
    Dropout,
    GlobalAveragePool,
    Input,
    MaxPool,
    Node,
    Relu,
    Reshape,
    Softmax,
)
from emberfleet.core.quantization import fake_quantize_weights
from emberfleet.engine import dropout
from emberfleet.engine.numpy_backend import loss, norm, pool
from emberfleet.engine.numpy_backend.conv import RowGather, Window, flip_weights, scatter_rows
from emberfleet.engine.numpy_backend.layout import Delivery
from emberfleet.engine.numpy_backend.workspace import Buffer, Slot, Workspace

SCRATCH_BYTES = 1 << 20
"""Rows of a convolution's backward pass are made in blocks of about this size, to stay in the cache."""


@dataclass(slots=True)
class Run:
    """What changes from one run of a program to the next."""

    training: bool = True
    batch_statistics: bool = True
    fake_quantize: bool = False
    learn_state: bool = False
    """Whether running statistics and ranges move."""
    seed: int = 0
    done: int = 0
    """Updates done before this one."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a step stands: its node, the places it reads and writes, and when."""

    node: Node
    index: int
    values: tuple[Slot, ...]
    output: Slot
    workspace: Workspace
    run: Run
    forward_time: int
    tensors: Mapping[str, Real]
    """Parameters and running statistics of the whole graph, by full name; changed in place."""
    gradients: Mapping[str, Real] = field(default_factory=dict)
    """Gradients of the parameters that learn, by full name."""
    doutput: Slot | None = None
    dvalues: tuple[Slot | None, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    backward_time: int = -1

    def tensor(self, part: str) -> Real:
        """A parameter or statistic of this node."""
        return self.tensors[f"{self.node.name}/{part}"]

    def gradient(self, part: str) -> Real | None:
        """The gradient of a parameter, None where it does not learn."""
        return self.gradients.get(f"{self.node.name}/{part}")

    def delivers(self, index: int = 0) -> bool:
        """Whether the gradient of this input is wanted."""
        return index < len(self.deliveries) and self.deliveries[index] is not Delivery.NONE

    def scratch(self, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic] | None = None) -> Buffer:
        """A buffer of this step's own; the caller says when it is used."""
        return self.workspace.buffer(f"{self.node.name}.{name}", shape, dtype)


N = TypeVar("N", bound=Node)


class Step(Generic[N]):
    """The computation of one node."""

    def __init__(self, node: N, site: Site) -> None:
        self.node = node
        self.site = site
        for slot in (*site.values, site.output):
            slot.buffer.times.add(site.forward_time)
        if site.doutput is not None:
            for place in (*site.dvalues, site.doutput):
                if place is not None:
                    place.buffer.times.add(site.backward_time)

    def bind(self) -> None:
        """Take the views of the arena that the step works on."""
        site = self.site
        self.x = tuple(slot.array for slot in site.values)
        self.y = site.output.array
        self.xs = tuple(slot.rows for slot in site.values)
        self.ys = site.output.rows
        self.dy: Array = site.doutput.array if site.doutput else self.y[:0]
        self.dys: Array = site.doutput.rows if site.doutput else self.ys[:0]
        self.dx = tuple(slot.array if slot else self.y[:0] for slot in site.dvalues)
        self.dxs = tuple(slot.rows if slot else self.ys[:0] for slot in site.dvalues)

    def forward(self) -> None:
        """Compute the output from the inputs."""
        raise NotImplementedError

    def backward(self) -> None:
        """Compute the parameters' gradients and hand on the inputs', from the output's."""
        raise NotImplementedError

    def hand_on(self, index: int = 0) -> None:
        """Deliver what now stands in the output's gradient as the gradient of one input."""
        way = self.site.deliveries[index]
        if way is Delivery.WRITE:
            np.copyto(self.dx[index], self.dy.reshape(self.dx[index].shape))
        elif way is Delivery.ADD:
            self.dx[index][...] += self.dy.reshape(self.dx[index].shape)


class InputStep(Step[Input]):
    """The caller writes the images straight into the output."""

    def forward(self) -> None:
        """Nothing: the images are there."""

    def backward(self) -> None:
        """Nothing learns above the input."""


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


class BatchNormStep(Step[BatchNorm]):
    """Batch norm: by the batch's statistics in training, by the running ones otherwise."""

    def __init__(self, node: BatchNorm, site: Site, overwrite: bool) -> None:
        super().__init__(node, site)
        run = site.run
        self.by_batch = run.training and run.batch_statistics
        self.learns = site.gradient("gamma") is not None or site.gradient("beta") is not None
        self.centred: Slot | None = None
        if self.by_batch or site.gradient("gamma") is not None:
            self.centred = (
                site.values[0]
                if overwrite
                else site.workspace.slot(f"{node.name}.centred", site.output.shape)
            )
            self.centred.buffer.times.update((site.forward_time, max(site.backward_time, site.forward_time)))
        self.ones = np.ones(int(np.prod(site.output.shape[:-1])), site.workspace.dtype)

    def bind(self) -> None:
        """See `Step.bind`."""
        super().bind()
        self.gamma, self.beta = self.site.tensor("gamma"), self.site.tensor("beta")
        self.mean, self.variance = self.site.tensor("mean"), self.site.tensor("variance")
        self.c: Array = self.centred.rows if self.centred else self.ys[:0]
        self.dgamma, self.dbeta = self.site.gradient("gamma"), self.site.gradient("beta")

    def forward(self) -> None:
        """See `Step.forward`."""
        variance = self.variance
        if self.by_batch:
            mean, variance = norm.centre(self.xs[0], self.ones, self.c)
            if self.site.run.learn_state:
                self._move_statistics(mean, variance)
        elif self.centred:
            np.subtract(self.xs[0], self.mean, out=self.c)
        self.inverse = 1.0 / np.sqrt(variance + self.gamma.dtype.type(self.node.epsilon))
        factor = self.gamma * self.inverse
        if self.centred:
            norm.scale_and_shift(self.c, factor, self.beta, self.ys)
        else:
            norm.scale_and_shift(self.xs[0], factor, self.beta - self.mean * factor, self.ys)

    def _move_statistics(self, mean: Real, variance: Real) -> None:
        keep, m = self.node.momentum, len(self.ones)
        self.mean *= keep
        self.mean += (1.0 - keep) * mean
        self.variance *= keep
        self.variance += (1.0 - keep) * m / max(m - 1, 1) * variance

    def backward(self) -> None:
        """See `Step.backward`."""
        wanted = self.site.delivers()
        if self.by_batch:
            dgamma, dbeta = norm.batch_norm_backward(
                self.c, self.dys, self.gamma, self.inverse, self.ones, dx=wanted
            )
            if self.dgamma is not None:
                self.dgamma[...] = dgamma
            if self.dbeta is not None:
                self.dbeta[...] = dbeta
        else:
            if self.dgamma is not None:
                np.multiply(np.einsum("ij,ij->j", self.dys, self.c), self.inverse, out=self.dgamma)
            if self.dbeta is not None:
                np.matmul(self.ones, self.dys, out=self.dbeta)
            if wanted:
                self.dys *= self.gamma * self.inverse
        if wanted:
            self.hand_on()


class ReluStep(Step[Relu]):
    """``max(x, 0)``; remembers what was positive where its output is changed afterwards."""

    def __init__(self, node: Relu, site: Site, keep_mask: bool) -> None:
        super().__init__(node, site)
        self.mask: Buffer | None = None
        if site.doutput is not None:
            self.mask = site.scratch("positive", site.output.shape, np.dtype(np.bool_))
            self.mask.times.add(site.backward_time)
            kept = self.mask if keep_mask else site.output.buffer
            kept.times.update((site.forward_time, site.backward_time))
        self.keep_mask = keep_mask

    def bind(self) -> None:
        """See `Step.bind`."""
        super().bind()
        # numpy compares with a row of zeros by vector instructions, with the number 0 it does not.
        longer = self.site.output.whole and self.site.values[0].whole
        row = int(np.prod(self.y.shape[-2:])) if longer else self.y.shape[-1]
        self.zeros = np.zeros(row, self.y.dtype)
        self.wide = (self.x[0].reshape(-1, row), self.y.reshape(-1, row)) if longer else (self.xs[0], self.ys)

    def forward(self) -> None:
        """See `Step.forward`."""
        np.maximum(self.wide[0], self.zeros, out=self.wide[1])
        if self.mask and self.keep_mask:
            np.greater(self.y, 0, out=self.mask.array)

    def backward(self) -> None:
        """See `Step.backward`."""
        assert self.mask is not None
        if not self.keep_mask:
            np.greater(self.y, 0, out=self.mask.array)
        np.multiply(self.dy, self.mask.array, out=self.dy)
        self.hand_on()


class MaxPoolStep(Step[MaxPool]):
    """Max pooling; remembers which tap won where a gradient is wanted."""

    def __init__(self, node: MaxPool, site: Site) -> None:
        super().__init__(node, site)
        self.window = Window.of(node)
        self.codes: Buffer | None = None
        if site.delivers():
            kind = pool.code_type(self.window)
            self.codes = site.scratch("winners", site.output.shape, kind)
            self.codes.times.update((site.forward_time, site.backward_time))
            self.found = site.scratch("found", site.output.shape, kind)
            self.found.times.add(site.forward_time)
            self.share = site.scratch("share", site.output.shape)
            self.share.times.add(site.backward_time)

    def bind(self) -> None:
        """See `Step.bind`."""
        super().bind()
        self.taps = self.window.taps(self.x[0].shape[1:3])

    def forward(self) -> None:
        """See `Step.forward`."""
        pool.max_pool_forward(self.x[0], self.taps, self.y)
        if self.codes:
            pool.max_pool_winners(self.x[0], self.y, self.taps, self.codes.array, self.found.array)

    def backward(self) -> None:
        """See `Step.backward`."""
        assert self.codes is not None
        if self.site.deliveries[0] is Delivery.WRITE:
            self.dx[0].fill(0)
        pool.max_pool_backward(self.dy, self.codes.array, self.taps, self.dx[0], self.share.array)


class GlobalAveragePoolStep(Step[GlobalAveragePool]):
    """Mean over h and w."""

    def forward(self) -> None:
        """See `Step.forward`."""
        pool.global_average_pool_forward(self.x[0], self.y)

    def backward(self) -> None:
        """See `Step.backward`."""
        pool.global_average_pool_backward(self.dy, self.dx[0], self.site.deliveries[0] is Delivery.ADD)


class ConcatStep(Step[Concat]):
    """Copies those inputs that do not stand in their place already."""

    def bind(self) -> None:
        """See `Step.bind`."""
        super().bind()
        site, start = self.site, 0
        self.parts: list[tuple[int, Array, Array]] = []
        self.copies: list[tuple[Array, Array]] = []
        for index, slot in enumerate(site.values):
            place = site.output.part(start, slot.channels)
            if (slot.buffer, slot.start) != (place.buffer, place.start):
                self.copies.append((place.array, slot.array))
            if site.delivers(index) and site.doutput:
                self.parts.append((index, self.dx[index], site.doutput.part(start, slot.channels).array))
            start += slot.channels

    def forward(self) -> None:
        """See `Step.forward`."""
        for place, value in self.copies:
            np.copyto(place, value)

    def backward(self) -> None:
        """See `Step.backward`."""
        for index, dx, dy in self.parts:
            if self.site.deliveries[index] is Delivery.WRITE:
                np.copyto(dx, dy)
            elif self.site.deliveries[index] is Delivery.ADD:
                dx += dy


class AddStep(Step[Add]):
    """Sum of two tensors; both inputs get the same gradient."""

    def forward(self) -> None:
        """See `Step.forward`."""
        np.add(self.x[0], self.x[1], out=self.y)

    def backward(self) -> None:
        """See `Step.backward`; the second input first, while the first's place is untouched."""
        for index in (1, 0):
            if self.site.delivers(index):
                self.hand_on(index)


class DropoutStep(Step[Dropout]):
    """Zeroes values by the hash of `engine.dropout` in training, passes them on otherwise."""

    def __init__(self, node: Dropout, site: Site) -> None:
        super().__init__(node, site)
        self.factor: Buffer | None = None
        if site.run.training:
            self.factor = site.scratch("factor", site.output.shape)
            self.factor.times.update((site.forward_time, max(site.forward_time, site.backward_time)))

    def forward(self) -> None:
        """See `Step.forward`."""
        if self.factor is None:
            if self.site.values[0].buffer is not self.site.output.buffer:
                np.copyto(self.y, self.x[0])
            return
        run, rate = self.site.run, self.node.rate
        key = dropout.mask_key(run.seed, run.done, self.site.index)
        kept = dropout.keep_mask(key, rate, self.y.size).reshape(self.y.shape)
        np.multiply(kept, self.y.dtype.type(1.0 / (1.0 - rate)), out=self.factor.array)
        np.multiply(self.x[0], self.factor.array, out=self.y)

    def backward(self) -> None:
        """See `Step.backward`."""
        assert self.factor is not None
        np.multiply(self.dy, self.factor.array, out=self.dy)
        self.hand_on()


class ReshapeStep(Step[Reshape]):
    """A view, or a copy where the output stands among other channels."""

    def forward(self) -> None:
        """See `Step.forward`."""
        if self.site.values[0].buffer is not self.site.output.buffer:
            np.copyto(self.y, self.x[0].reshape(self.y.shape))

    def backward(self) -> None:
        """See `Step.backward`."""
        self.hand_on()


class SoftmaxStep(Step[Softmax]):
    """Probabilities; left out of training, where the loss holds it."""

    def forward(self) -> None:
        """See `Step.forward`."""
        loss.softmax(self.xs[0], self.ys)

    def backward(self) -> None:
        """The loss hands its gradient to the logits directly."""


StepType = (
    InputStep | ConvStep | BatchNormStep | ReluStep | MaxPoolStep | GlobalAveragePoolStep | ConcatStep
    | AddStep | DropoutStep | ReshapeStep | SoftmaxStep
)  # fmt: skip
