"""The step of a depthwise convolution."""

from __future__ import annotations

import numpy as np

from emberfleet.core.arrays import Real
from emberfleet.core.nodes import DepthwiseConv2D
from emberfleet.core.quantization import fake_quantize_weights
from emberfleet.engine.numpy_backend.conv import Window
from emberfleet.engine.numpy_backend.depthwise import (
    Bands,
    depthwise_backward_input,
    depthwise_backward_weight,
    depthwise_forward,
    weight_rows,
)
from emberfleet.engine.numpy_backend.layout import Delivery
from emberfleet.engine.numpy_backend.step import Site, Step
from emberfleet.engine.numpy_backend.workspace import Buffer


class DepthwiseStep(Step[DepthwiseConv2D]):
    """A depthwise convolution; with a multiplier it works on the image with its channels repeated."""

    def __init__(self, node: DepthwiseConv2D, site: Site) -> None:
        super().__init__(node, site)
        self.learns = site.gradient("weight") is not None
        image, output = site.values[0], site.output
        now, later = site.forward_time, site.backward_time
        if self.learns:
            image.buffer.times.add(later)
        shape = (*image.shape[:-1], output.channels)
        self.bands = Bands.plan(Window.of(node), shape)
        weights = site.tensor("weight")
        rows = (weights.shape[1] * weights.shape[2], output.shape[2], len(weights))
        self.rows = self._scratch("rows", rows, now)
        self.work = self._scratch("work", (self.bands.values,), now)
        self.repeated = self._scratch("repeated", shape, now) if node.multiplier > 1 else None
        self.drepeated: Buffer | None = None
        if self.learns or site.delivers():
            self.work.times.add(later)
        if self.learns and self.repeated:
            self.repeated.times.add(later)
        if site.delivers():
            self.rows.times.add(later)
            if node.multiplier > 1:
                self.drepeated = self._scratch("drepeated", shape, later)

    def _scratch(self, name: str, shape: tuple[int, ...], time: int) -> Buffer:
        buffer = self.site.scratch(name, shape)
        buffer.times.add(time)
        return buffer

    def bind(self) -> None:
        """See `Step.bind`."""
        super().bind()
        self.weight = self.site.tensor("weight")
        self.bias = self.site.tensor("bias") if self.node.bias else None
        dw = self.site.gradient("weight")
        self.dw = None if dw is None else dw.reshape(len(dw), -1)
        self.db = self.site.gradient("bias")
        self.ones = np.ones(0 if self.db is None else len(self.dys), self.weight.dtype)

    def forward(self) -> None:
        """See `Step.forward`."""
        weight = fake_quantize_weights(self.weight) if self.site.run.fake_quantize else self.weight
        rows = weight_rows(weight, self.y.shape[2], self.rows.array)
        depthwise_forward(self._image(), rows, self.bands, self.y, self.work.array)
        if self.bias is not None:
            self.ys += self.bias

    def _image(self) -> Real:
        """The input, each channel as often as outputs read it."""
        if self.repeated is None:
            return self.x[0]
        copies = self.repeated.array.reshape(*self.x[0].shape, self.node.multiplier)
        np.copyto(copies, self.x[0][..., None])
        return self.repeated.array

    def backward(self) -> None:
        """See `Step.backward`; the weights' gradient passes their rounding as if it were not there."""
        work = self.work.array
        if self.db is not None:
            np.matmul(self.ones, self.dys, out=self.db)
        if self.dw is not None:
            image = self.x[0] if self.repeated is None else self.repeated.array
            depthwise_backward_weight(image, self.dy, self.bands, self.dw, work)
        if not self.site.delivers():
            return
        adds = self.site.deliveries[0] is Delivery.ADD
        dx = self.dx[0]
        if self.drepeated is None:
            if not adds:
                dx.fill(0)
            depthwise_backward_input(self.dy, self.rows.array, self.bands, dx, work)
            return
        copies = self.drepeated.array
        copies.fill(0)
        depthwise_backward_input(self.dy, self.rows.array, self.bands, copies, work)
        if not adds:
            dx.fill(0)
        for copy in range(self.node.multiplier):
            dx += copies[..., copy :: self.node.multiplier]
