"""The steps of all nodes but the convolutions; see `step.Step` for the life of one."""

from __future__ import annotations

import numpy as np

from emberfleet.core.arrays import Array, Real
from emberfleet.core.nodes import (
    Add,
    AveragePool,
    BatchNorm,
    ClippedRelu,
    Concat,
    Dropout,
    GlobalAveragePool,
    Input,
    MaxPool,
    Relu,
    Reshape,
    Softmax,
)
from emberfleet.engine import dropout
from emberfleet.engine.numpy_backend import loss, norm, pool
from emberfleet.engine.numpy_backend.conv import Window
from emberfleet.engine.numpy_backend.layout import Delivery
from emberfleet.engine.numpy_backend.step import Site, Step
from emberfleet.engine.numpy_backend.workspace import Buffer, Slot, long_rows


class InputStep(Step[Input]):
    """The caller writes the images straight into the output."""

    def forward(self) -> None:
        """Nothing: the images are there."""

    def backward(self) -> None:
        """Nothing learns above the input."""


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

    def bind(self) -> None:
        """See `Step.bind`."""
        super().bind()
        self.gamma, self.beta = self.site.tensor("gamma"), self.site.tensor("beta")
        self.mean, self.variance = self.site.tensor("mean"), self.site.tensor("variance")
        site = self.site
        x, y = site.values[0], site.output
        rows = long_rows(x, y, self.centred or x, site.doutput or y)
        self.x_rows, self.y_rows, self.c_rows, self.dy_rows = rows
        self.ones = np.ones(len(self.y_rows), self.y.dtype)
        self.dgamma, self.dbeta = self.site.gradient("gamma"), self.site.gradient("beta")

    def forward(self) -> None:
        """See `Step.forward`."""
        variance = self.variance
        if self.by_batch:
            mean, variance = norm.centre(self.x_rows, len(self.gamma), self.ones, self.c_rows)
            if self.site.run.learn_state:
                self._move_statistics(mean, variance)
        elif self.centred:
            np.subtract(self.x_rows, norm.repeat(self.mean, self.x_rows), out=self.c_rows)
        self.inverse = 1.0 / np.sqrt(variance + self.gamma.dtype.type(self.node.epsilon))
        factor = self.gamma * self.inverse
        if self.centred:
            norm.scale_and_shift(self.c_rows, factor, self.beta, self.y_rows)
        else:
            norm.scale_and_shift(self.x_rows, factor, self.beta - self.mean * factor, self.y_rows)

    def _move_statistics(self, mean: Real, variance: Real) -> None:
        keep, m = self.node.momentum, self.y.size // len(self.gamma)
        self.mean *= keep
        self.mean += (1.0 - keep) * mean
        self.variance *= keep
        self.variance += (1.0 - keep) * m / max(m - 1, 1) * variance

    def backward(self) -> None:
        """See `Step.backward`."""
        wanted, channels = self.site.delivers(), len(self.gamma)
        if self.by_batch:
            dgamma, dbeta = norm.batch_norm_backward(
                self.c_rows, self.dy_rows, self.gamma, self.inverse, self.ones, dx=wanted
            )
            if self.dgamma is not None:
                self.dgamma[...] = dgamma
            if self.dbeta is not None:
                self.dbeta[...] = dbeta
        else:
            if self.dgamma is not None:
                np.multiply(
                    norm.channel_dots(self.dy_rows, self.c_rows, channels), self.inverse, out=self.dgamma
                )
            if self.dbeta is not None:
                self.dbeta[...] = norm.channel_sums(self.dy_rows, channels, self.ones)
            if wanted:
                self.dy_rows *= norm.repeat(self.gamma * self.inverse, self.dy_rows)
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
        self.x_rows, self.y_rows = long_rows(self.site.values[0], self.site.output)
        # numpy compares with a row of zeros by vector instructions, with the number 0 it does not.
        self.zeros = np.zeros(self.y_rows.shape[1], self.y.dtype)

    def forward(self) -> None:
        """See `Step.forward`."""
        np.maximum(self.x_rows, self.zeros, out=self.y_rows)
        if self.mask and self.keep_mask:
            np.greater(self.y, 0, out=self.mask.array)

    def backward(self) -> None:
        """See `Step.backward`."""
        assert self.mask is not None
        if not self.keep_mask:
            np.greater(self.y, 0, out=self.mask.array)
        np.multiply(self.dy, self.mask.array, out=self.dy)
        self.hand_on()


class ClippedReluStep(Step[ClippedRelu]):
    """``min(max(x, 0), ceiling)``; remembers what lay between where its output is changed afterwards."""

    def __init__(self, node: ClippedRelu, site: Site, keep_mask: bool) -> None:
        super().__init__(node, site)
        self.mask: Buffer | None = None
        self.keep_mask = keep_mask
        if site.doutput is not None:
            self.mask = site.scratch("between", site.output.shape, np.dtype(np.bool_))
            self.below = site.scratch("below", site.output.shape, np.dtype(np.bool_))
            self.mask.times.add(site.backward_time)
            self.below.times.add(site.forward_time if keep_mask else site.backward_time)
            kept = self.mask if keep_mask else site.output.buffer
            kept.times.update((site.forward_time, site.backward_time))

    def bind(self) -> None:
        """See `Step.bind`."""
        super().bind()
        self.x_rows, self.y_rows = long_rows(self.site.values[0], self.site.output)
        self.zeros = np.zeros(self.y_rows.shape[1], self.y.dtype)
        self.ceilings = np.full(self.y_rows.shape[1], self.node.ceiling, self.y.dtype)

    def forward(self) -> None:
        """See `Step.forward`."""
        np.maximum(self.x_rows, self.zeros, out=self.y_rows)
        np.minimum(self.y_rows, self.ceilings, out=self.y_rows)
        if self.mask and self.keep_mask:
            self._find_between(self.mask)

    def _find_between(self, mask: Buffer) -> None:
        np.greater(self.y, 0, out=mask.array)
        np.less(self.y, self.y.dtype.type(self.node.ceiling), out=self.below.array)
        np.logical_and(mask.array, self.below.array, out=mask.array)

    def backward(self) -> None:
        """See `Step.backward`."""
        assert self.mask is not None
        if not self.keep_mask:
            self._find_between(self.mask)
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

    def bind(self) -> None:
        """See `Step.bind`."""
        super().bind()
        shape = self.x[0].shape[1:]
        self.taps = self.window.taps(shape[:2])
        self.places = pool.winner_places(self.window, shape)

    def forward(self) -> None:
        """See `Step.forward`."""
        pool.max_pool_forward(self.x[0], self.taps, self.y)
        if self.codes:
            pool.max_pool_winners(self.x[0], self.y, self.taps, self.codes.array, self.found.array)

    def backward(self) -> None:
        """See `Step.backward`."""
        assert self.codes is not None
        add = self.site.deliveries[0] is Delivery.ADD
        pool.max_pool_backward(self.dy, self.codes.array, self.places, self.dx[0], add)


class AveragePoolStep(Step[AveragePool]):
    """Mean of each window, padding not counted."""

    def bind(self) -> None:
        """See `Step.bind`."""
        super().bind()
        window, shape = Window.of(self.node), self.x[0].shape[1:]
        self.taps = window.taps(shape[:2])
        self.counts = pool.pixels_inside(window, shape).astype(self.y.dtype)

    def forward(self) -> None:
        """See `Step.forward`."""
        pool.average_pool_forward(self.x[0], self.taps, self.counts, self.y)

    def backward(self) -> None:
        """See `Step.backward`."""
        add = self.site.deliveries[0] is Delivery.ADD
        pool.average_pool_backward(self.dy, self.taps, self.counts, self.dx[0], add)


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
