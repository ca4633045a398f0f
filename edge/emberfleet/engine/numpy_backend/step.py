"""One step per node: it asks for its buffers once, then runs forward and backward on fixed views.

A step's life: `__init__` requests scratch buffers and says at which times it touches what;
`bind` takes the views once the arena exists; `forward` and `backward` compute and allocate
nothing that grows with the batch, but for a few temporaries of BLAS and ufunc size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from emberfleet.core.arrays import Array, Real
from emberfleet.core.nodes import Node
from emberfleet.engine.numpy_backend.layout import Delivery
from emberfleet.engine.numpy_backend.workspace import Buffer, Slot, Workspace


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


class Step(ABC, Generic[N]):
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

    @abstractmethod
    def forward(self) -> None:
        """Compute the output from the inputs."""

    @abstractmethod
    def backward(self) -> None:
        """Compute the parameters' gradients and hand on the inputs', from the output's."""

    def hand_on(self, index: int = 0) -> None:
        """Deliver what now stands in the output's gradient as the gradient of one input."""
        way = self.site.deliveries[index]
        if way is Delivery.WRITE:
            np.copyto(self.dx[index], self.dy.reshape(self.dx[index].shape))
        elif way is Delivery.ADD:
            self.dx[index][...] += self.dy.reshape(self.dx[index].shape)
