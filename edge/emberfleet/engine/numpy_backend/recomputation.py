"""Chooses which modules compute their values twice, so that the arena stays under a limit.

A segment is a run of steps that share the first part of their name, such as a fire module. One that
is computed twice lends its memory to others between the forward pass and its backward pass; then its
steps run forward once more, at the same addresses, before the first of them runs backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Input
from emberfleet.engine.memory import ArenaPlan, BufferRequest, limit_error, plan_arena
from emberfleet.engine.numpy_backend.step import Step
from emberfleet.engine.numpy_backend.steps import BatchNormStep
from emberfleet.engine.numpy_backend.workspace import Buffer
from emberfleet.engine.work import forward_work


@dataclass(frozen=True, slots=True)
class Segment:
    """Steps from index `first` to `last`, both included."""

    first: int
    last: int

    def holds(self, index: int) -> bool:
        """Whether a step belongs to it."""
        return self.first <= index <= self.last


class Timeline:
    """When each buffer is in use, where some segments run forward a second time."""

    def __init__(self, buffers: Sequence[Buffer], steps: int, end: int) -> None:
        """Prepare.

        Args:
            buffers: Of the workspace, with the times of their uses.
            steps: Number of nodes: forward times are below it, that of the loss is it.
            end: Time of the backward pass of step 0.
        """
        self._buffers = [buffer for buffer in buffers if buffer.times]
        self._turn, self._end, self._room = steps, end, steps + 1

    def plan(self, segments: Sequence[Segment]) -> ArenaPlan:
        """The arena with these segments computed twice."""
        return plan_arena(self._request(buffer, segments) for buffer in self._buffers)

    def _request(self, buffer: Buffer, segments: Sequence[Segment]) -> BufferRequest:
        """Between two times there is room for a segment's second forward pass."""
        once = [time * self._room for time in buffer.times]
        again: dict[Segment, list[int]] = {}
        for segment in segments:
            inside = [time for time in buffer.times if segment.holds(time)]
            start = (self._end - segment.last) * self._room - segment.last - 1
            again[segment] = [start + time for time in inside]
        second = [time for times in again.values() for time in times]
        first, last = min(once), max(once + second)
        owner = next((segment for segment in segments if segment.holds(min(buffer.times))), None)
        gap = None
        if owner is not None:
            turn = self._turn * self._room
            begin = min(again[owner])
            if min(time for time in once + second if time > turn) == begin:
                gap = (max(time for time in once if time <= turn), begin)
        return BufferRequest(buffer.name, buffer.size_bytes, first, last, gap)


def choose(
    graph: Graph, steps: Sequence[Step[Any]], timeline: Timeline, batch: int, limit_bytes: int
) -> tuple[Segment, ...]:
    """The segments to compute twice: of those that empty the fullest moment, the cheapest per byte first.

    Raises:
        ConfigError: no choice is small enough.
    """
    chosen: list[Segment] = []
    left = list(segments(steps))
    plan = timeline.plan(chosen)
    smallest = plan.size_bytes
    while plan.size_bytes > limit_bytes:
        plans = {segment: timeline.plan([*chosen, segment]) for segment in left}
        gains = {segment: plan.bound_bytes - found.bound_bytes for segment, found in plans.items()}
        helpful = [segment for segment, gain in gains.items() if gain >= 0]
        if not helpful:
            raise limit_error(smallest, batch, limit_bytes)
        best = max(helpful, key=lambda segment: gains[segment] / segment_work(graph, steps, segment))
        chosen.append(best)
        left.remove(best)
        plan = plans[best]
        smallest = min(smallest, plan.size_bytes)
    for segment in sorted(chosen, key=lambda segment: -segment_work(graph, steps, segment)):
        fewer = [other for other in chosen if other is not segment]
        if timeline.plan(fewer).size_bytes <= limit_bytes:
            chosen = fewer
    return tuple(sorted(chosen, key=lambda segment: segment.first))


def segment_work(graph: Graph, steps: Sequence[Step[Any]], segment: Segment) -> int:
    """Work of a segment's forward pass for one image."""
    return sum(forward_work(graph, step.node) for step in steps[segment.first : segment.last + 1])


def segments(steps: Sequence[Step[Any]]) -> Iterator[Segment]:
    """The modules that may run forward again: what they read and write is theirs, or stays as it was."""
    writers: dict[Buffer, set[int]] = {}
    for index, step in enumerate(steps):
        writers.setdefault(step.site.output.buffer, set()).add(index)
        if isinstance(step, BatchNormStep) and step.centred is not None:
            writers.setdefault(step.centred.buffer, set()).add(index)
    computed = [index for index, step in enumerate(steps) if not isinstance(step.node, Input)]
    for _, run in groupby(computed, key=lambda index: _module(steps[index].node.name)):
        indices = list(run)
        segment = Segment(indices[0], indices[-1])
        touched = {
            slot.buffer for index in indices for slot in (*steps[index].site.values, steps[index].site.output)
        }
        if steps[segment.last].site.doutput is not None and all(
            writers[buffer] <= set(indices) or max(writers[buffer]) < segment.first for buffer in touched
        ):
            yield segment


def _module(name: str) -> str:
    module, found, _ = name.partition("/")
    return module if found else ""
