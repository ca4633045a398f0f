"""Values of the forward pass for the backward pass: those that were kept, and those computed again.

Memory is given up by storage. A tensor whose storage is given up is computed again where backward
first reads it, into new storage, from what its unit read; where that was given up too, it is
computed again before. So every value is computed at most twice, by the same kernels from the same
values: the bits are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass

from emberfleet.core.nodes import Concat, Conv2D, DepthwiseConv2D
from emberfleet.engine.opencl.forward import Forward
from emberfleet.engine.opencl.layout import View
from emberfleet.engine.opencl.network import Unit, Values
from emberfleet.engine.work import forward_work, pass_work


@dataclass(frozen=True, slots=True)
class Tensor:
    """A unit's output, `raw` before it is rounded, where rounding has a storage of its own."""

    name: str
    raw: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What computes one tensor: a unit without the rounding that follows it, or the rounding alone."""

    unit: Unit
    rounding: bool
    label: str
    """Of the storage written."""


class Steps:
    """What each tensor of a forward pass is computed from, and in which storage it lies."""

    def __init__(self, values: Values, units: tuple[Unit, ...]) -> None:
        """Take note of where everything lies, before anything is computed again."""
        self._units = {unit.output: unit for unit in units}
        self.labels: dict[Tensor, str] = {}
        self.given = values.view(values.graph.input.name).images.label
        """The label of what nothing computes."""
        for name in self._units:
            raw, view = values.raw(name), values.view(name)
            self.labels[Tensor(name)] = view.images.label
            if raw is not view:
                self.labels[Tensor(name, raw=True)] = raw.images.label

    def tensor(self, name: str, raw: bool) -> Tensor:
        """The tensor of this name: before rounding and after are the same where both lie in one place."""
        found = Tensor(name, raw)
        return found if found in self.labels else Tensor(name)

    def missing(self, wanted: Tensor, dropped: Set[str], done: set[Tensor]) -> Iterator[Step]:
        """What must be computed again to have a tensor, in order; `done` takes note of it.

        Args:
            wanted: The tensor.
            dropped: Labels of the storages given up.
            done: Tensors computed again so far.
        """
        if self.labels[wanted] not in dropped or wanted in done:
            return
        unit = self._units[wanted.name]
        rounding = not wanted.raw and Tensor(wanted.name, raw=True) in self.labels
        if rounding:
            yield from self.missing(Tensor(wanted.name, raw=True), dropped, done)
        else:
            for name in unit.inputs:
                yield from self.missing(Tensor(name), dropped, done)
        done.add(wanted)
        yield Step(unit, rounding, self.labels[wanted])


class Recall:
    """Looks up values of the forward pass; records what must be computed again before they are there."""

    def __init__(self, forward: Forward, steps: Steps, dropped: Set[str]) -> None:
        self.demanded: dict[Tensor, None] = {}
        """What backward has read, in the order of first reading."""
        self.repeated: list[Step] = []
        self._forward, self._steps, self._dropped = forward, steps, dropped
        self._renewed: set[str] = set()
        self._done: set[Tensor] = set()

    def view(self, name: str) -> View:
        """Where a tensor is read."""
        self._bring_back(self._steps.tensor(name, raw=False))
        return self._forward.values.view(name)

    def raw(self, name: str) -> View:
        """Where a unit's output is before rounding."""
        self._bring_back(self._steps.tensor(name, raw=True))
        return self._forward.values.raw(name)

    def _bring_back(self, tensor: Tensor) -> None:
        self.demanded[tensor] = None
        for step in self._steps.missing(tensor, self._dropped, self._done):
            if step.label not in self._renewed:
                self._renewed.add(step.label)
                self._forward.values.renew(step.label)
            self._forward.repeat(step.unit, step.rounding)
            self.repeated.append(step)


def step_work(step: Step, values: Values) -> int:
    """About how long a step takes for one image, in multiply-adds."""
    node = step.unit.node
    if step.rounding:
        return pass_work(values.graph, node)
    if isinstance(node, Concat) and values.in_place(step.unit):
        return 0
    return forward_work(values.graph, node)


def training_work(units: Iterable[Unit], values: Values, learning: Set[str], wanted: Set[str]) -> int:
    """About how long a whole training step takes for one image, in multiply-adds."""
    total = 0
    for unit in units:
        node = unit.node
        backward = int(unit.output in wanted)
        if isinstance(node, (Conv2D, DepthwiseConv2D)):
            backward = (f"{node.name}/weight" in learning) + (unit.inputs[0] in wanted)
        total += step_work(Step(unit, rounding=False, label=""), values) * (1 + backward)
    return total
