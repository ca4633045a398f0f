"""One arena for all buffers of a program: who may share memory with whom, decided before it runs.

A buffer is live from the step that first writes it to the step that last reads it. Buffers whose
lives do not meet may share bytes. Finding the smallest arena is NP-hard. The lives of a training
step are nested like brackets, what is computed first being read last: placing the longest-lived buffer
first, each into the tightest gap, gives the bound itself on most of our networks. Where it does not,
the buffer that came to lie highest goes first and all are placed anew, a few times.

Source: Pisarchyk & Lee 2020, arXiv:2001.03288, section 5 (greedy placement into the tightest gap).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from emberfleet.core.errors import ConfigError, ShapeError

ALIGNMENT = 64
"""Bytes: one cache line, and the widest vector register."""

CLOSE_ENOUGH = 1.005
"""Share of the bound at which an arena is not improved further."""

ROUNDS = 32
"""Most orders in which buffers are placed."""


@dataclass(frozen=True, slots=True)
class BufferRequest:
    """A buffer and the steps between which its bytes must stay its own, both included."""

    name: str
    size_bytes: int
    first: int
    last: int
    gap: tuple[int, int] | None = None
    """Two steps strictly between which others may have the bytes."""

    def meets(self, other: BufferRequest) -> bool:
        """Whether both are in use at some step."""
        if other.first > self.last or self.first > other.last:
            return False
        if self.gap is None and other.gap is None:
            return True
        return any(
            start <= stop2 and start2 <= stop
            for start, stop in self.intervals
            for start2, stop2 in other.intervals
        )

    @property
    def intervals(self) -> tuple[tuple[int, int], ...]:
        """First and last steps of its uses, without the gap."""
        if self.gap is None or self.gap[1] - self.gap[0] < 2:
            return ((self.first, self.last),)
        return ((self.first, self.gap[0]), (self.gap[1], self.last))


@dataclass(frozen=True, slots=True)
class ArenaPlan:
    """Where each buffer starts, and how large the arena is."""

    offsets: Mapping[str, int]
    size_bytes: int
    bound_bytes: int
    """What is live at the fullest moment: no plan can be smaller."""
    fullest_step: int = 0
    """That moment; the first one where there are several."""


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """How the memory of a training step was laid out, and what that costs."""

    arena: ArenaPlan
    limit_bytes: int | None = None
    """What the arena was held to; None: no limit."""
    recomputed: tuple[str, ...] = ()
    """Nodes computed a second time in the backward pass, instead of being kept until then."""
    extra_work: float = 0.0
    """What that adds to a step's work, as a share of it; a plan's figure, not a measured one."""


def align(size_bytes: int, alignment: int = ALIGNMENT) -> int:
    """Round a size up to the next multiple of the alignment."""
    return -(-size_bytes // alignment) * alignment


def limit_error(smallest_bytes: int, batch: int, limit_bytes: int) -> ConfigError:
    """What to raise where no plan keeps to a memory limit."""
    return ConfigError(
        f"training needs {smallest_bytes:,} bytes for values at a batch of {batch}, even with everything "
        f"computed twice that helps; the memory limit is {limit_bytes:,} bytes: choose a smaller batch or a "
        "higher limit"
    )


def plan_arena(requests: Iterable[BufferRequest], alignment: int = ALIGNMENT) -> ArenaPlan:
    """Give each buffer an offset so that no two buffers live at the same step overlap.

    Raises:
        ShapeError: a name appears twice, a size is negative, a life ends before it begins or a gap
            is not within it.
    """
    buffers = tuple(requests)
    _check(buffers)
    bound, moment = _fullest_moment(buffers, alignment)
    order = sorted(buffers, key=lambda b: (b.first - b.last, -b.size_bytes, b.name))
    best, smallest = _place(order, alignment)
    for _ in range(ROUNDS):
        if smallest <= bound * CLOSE_ENOUGH:
            break
        offsets, total = _place(order, alignment)
        if total < smallest:
            best, smallest = offsets, total
        highest = max(order, key=lambda b: offsets[b.name] + align(b.size_bytes, alignment))
        order.remove(highest)
        order.insert(0, highest)
    return ArenaPlan(best, smallest, bound, moment)


def _place(order: Iterable[BufferRequest], alignment: int) -> tuple[dict[str, int], int]:
    """Offsets of buffers placed one after the other, and how much they take together."""
    offsets: dict[str, int] = {}
    placed: list[BufferRequest] = []
    total = 0
    for buffer in order:
        size = align(buffer.size_bytes, alignment)
        taken = sorted(
            (offsets[other.name], offsets[other.name] + align(other.size_bytes, alignment))
            for other in placed
            if other.meets(buffer)
        )
        offsets[buffer.name] = _tightest_gap(taken, size)
        total = max(total, offsets[buffer.name] + size)
        placed.append(buffer)
    return offsets, total


def _tightest_gap(taken: list[tuple[int, int]], size: int) -> int:
    """Start of the smallest free gap that holds `size` bytes; behind everything when none does."""
    best: tuple[int, int] | None = None
    end = 0
    for start, stop in taken:
        gap = start - end
        if gap >= size and (best is None or gap < best[0]):
            best = (gap, end)
        end = max(end, stop)
    return end if best is None else best[1]


def _fullest_moment(buffers: tuple[BufferRequest, ...], alignment: int) -> tuple[int, int]:
    """Bytes live then, and the step."""
    changes: dict[int, int] = {}
    for buffer in buffers:
        size = align(buffer.size_bytes, alignment)
        for first, last in buffer.intervals:
            changes[first] = changes.get(first, 0) + size
            changes[last + 1] = changes.get(last + 1, 0) - size
    live = fullest = moment = 0
    for step in sorted(changes):
        live += changes[step]
        if live > fullest:
            fullest, moment = live, step
    return fullest, moment


def _check(buffers: tuple[BufferRequest, ...]) -> None:
    names: set[str] = set()
    for buffer in buffers:
        if buffer.name in names:
            raise ShapeError(f"buffer '{buffer.name}' is requested twice")
        if buffer.size_bytes < 0 or buffer.last < buffer.first:
            raise ShapeError(
                f"buffer '{buffer.name}': {buffer.size_bytes} bytes from step {buffer.first} to "
                f"{buffer.last}; expected a size of 0 or more and a life that does not end before it begins"
            )
        if buffer.gap is not None and not buffer.first <= buffer.gap[0] <= buffer.gap[1] <= buffer.last:
            raise ShapeError(f"buffer '{buffer.name}': the gap {buffer.gap} is not within its life")
        names.add(buffer.name)
