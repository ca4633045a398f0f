"""Finds the fastest tile for each convolution of a network by measuring candidates on the device.

The candidates for a shape are the first of `tiles.py`, the default among them. Those of many shapes
are compiled as one program, in which each runs by itself on storages laid out as in the network. A
candidate whose result differs from numpy's is dropped with a line in the log. The others take turns;
each counts by its fastest sample, and one replaces the default only if it wins clearly.

Shapes come in the order of their share of the network's work. What was measured before is not
measured again, and when the budget is spent the rest keep their defaults.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from emberfleet.core.arrays import Float32
from emberfleet.engine.opencl import conv2d
from emberfleet.engine.opencl.conv2d import ForwardWork, WeightWork
from emberfleet.engine.opencl.conv2d_reference import (
    ConvolutionWork,
    forward_by_numpy,
    seen,
    sums_of,
    taps_of,
    twin_of,
    weight_floats,
    weight_gradient_by_numpy,
)
from emberfleet.engine.opencl.device import OpenCLDevice
from emberfleet.engine.opencl.layout import View
from emberfleet.engine.opencl.program import ARENA, FLOAT_BYTES, Program
from emberfleet.engine.opencl.tiles import ForwardShape, forward_candidates, weight_candidates
from emberfleet.engine.opencl.tuned_tiles import Shape, Tile, load, remember, save
from emberfleet.engine.tolerance import tolerance

Candidates: TypeAlias = Callable[[Shape, int], Sequence[Tile]]
"""The tiles to try for a shape on a processor with so many registers, the default first."""
Timer: TypeAlias = Callable[[Program, int, int], float]
"""Seconds that a program takes from one position to before another."""

BUDGET_S = 8.0
CANDIDATES, PROMISING = 5, 0.75
"""Tiles tried for a shape at most, and the share of the default's score that they have."""
GAIN = 0.02
"""By how much of its time the default must be beaten."""
NEGLIGIBLE = 0.002
"""Share of a network's work below which a shape keeps its default."""
ROUNDS = 4
HOPELESS = 1.2
"""Times the fastest, after the first round, of a candidate that is not timed again."""
SAMPLE_FLOPS = 3e7
"""About what one sample of one core computes: tenths of a millisecond."""
MAX_COPIES = 64
PERIOD = 65521
MAX_NEW_TILES = 24
"""Tiles compiled as one program: the budget is looked at between programs."""
TILE_SECONDS = 0.12
"""What compiling one is expected to take before any was compiled."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trial:
    """What was found of one candidate."""

    tile: Tile
    seconds: float
    """Of one run; infinite where the result was wrong."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found for one shape."""

    shape: Shape
    flops: int
    """Of one run."""
    share: float
    """Of the work of all convolutions tuned together, each program counting alike."""
    trials: tuple[Trial, ...]
    """The default first."""
    chosen: Tile

    @property
    def seconds(self) -> float:
        """Of one run with the default."""
        return self.trials[0].seconds

    @property
    def best_seconds(self) -> float:
        """Of one run with the chosen tile."""
        return next(trial.seconds for trial in self.trials if trial.tile == self.chosen)

    @property
    def gain(self) -> float:
        """How many times faster than the default the chosen tile is."""
        return self.seconds / self.best_seconds


@dataclass(frozen=True, slots=True)
class Report:
    """What one tuning did."""

    outcomes: tuple[Outcome, ...]
    known: int
    """Shapes that had been measured before."""
    left: int
    """Shapes for which the budget did not suffice."""
    seconds: float

    @property
    def gain(self) -> float:
        """How many times faster all convolutions measured are than with their defaults."""
        before = sum(outcome.share / outcome.flops * outcome.seconds for outcome in self.outcomes)
        after = sum(outcome.share / outcome.flops * outcome.best_seconds for outcome in self.outcomes)
        return before / after if after else 1.0


def tune(
    device: OpenCLDevice,
    programs: Iterable[Program],
    budget_s: float = BUDGET_S,
    again: bool = False,
    candidates: Candidates | None = None,
    timer: Timer | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """Measure the tiles of recorded programs, give the device the best and keep them for later processes.

    Networks that were made before keep the tiles that they have.

    Args:
        device: Where to measure; the programs are recorded for it.
        programs: Networks as recorded, compiled or not (`recording.py`).
        budget_s: When to stop: no program is begun that is expected to end later.
        again: Measure what was measured before, too.
        candidates: The table to choose from; None: the first of `tiles.py`.
        timer: Times a sample; None: the processor time of the calling thread where that computes, else
            the time that passes.
        clock: For the budget.
    """
    started = clock()
    remember(device)
    wanted = [(work, share) for work, share in distinct_works(programs) if share >= NEGLIGIBLE]
    todo = [(work, share) for work, share in wanted if again or work.shape not in device.tuned]
    lab = replace(device, tuned={}, keeps_binaries=False)
    bench = _Bench(lab, candidates or first_candidates, timer or timer_of(device))
    outcomes: list[Outcome] = []
    tile_seconds = TILE_SECONDS
    left = len(todo)
    for group in bench.groups(todo):
        begun = clock()
        if begun - started + tile_seconds * bench.count_tiles(group) > budget_s:
            break
        trials = bench.compile(group)
        tile_seconds = (clock() - begun) / bench.count_tiles(group)
        for (work, share), begin in zip(group, trials, strict=True):
            if clock() - started > budget_s:
                break
            outcomes.append(bench.measure(work, share, begin))
            left -= 1
    found = {outcome.shape: outcome.chosen for outcome in outcomes}
    if found:
        save(device, {**load(device), **device.tuned, **found})
        device.tuned.update(found)
    return Report(tuple(outcomes), len(wanted) - len(todo), left, clock() - started)


def first_candidates(shape: Shape, registers: int) -> Sequence[Tile]:
    """The first of `tiles.py`."""
    if isinstance(shape, ForwardShape):
        return forward_candidates(shape, registers, PROMISING)[:CANDIDATES]
    return weight_candidates(shape, registers, PROMISING)[:CANDIDATES]


def distinct_works(programs: Iterable[Program]) -> list[tuple[ConvolutionWork, float]]:
    """One work of each shape and its share of all, each program counting alike; the largest first."""
    found: dict[Shape, tuple[ConvolutionWork, float]] = {}
    given = [
        [call.work for call in program.calls if isinstance(call.work, ForwardWork | WeightWork)]
        for program in programs
    ]
    for works in given:
        total = sum(work.flops for work in works) * len(given)
        for work in works:
            first, share = found.get(work.shape, (work, 0.0))
            found[work.shape] = first, share + work.flops / total
    return sorted(found.values(), key=lambda pair: -pair[1])


def timer_of(device: OpenCLDevice) -> Timer:
    """Processor time of the calling thread where that computes, else the time that passes."""
    alone = device.groups_are_threads and device.limits.compute_units == 1
    clock = time.thread_time if alone else time.perf_counter

    def measure(program: Program, start: int, stop: int) -> float:
        before = clock()
        program.run(start, stop)
        program.wait()
        return clock() - before

    return measure


@dataclass(frozen=True, slots=True)
class _Trial:
    """A candidate in a compiled program: so many copies of it in a row."""

    tile: Tile
    position: int


@dataclass(frozen=True, slots=True)
class _Places:
    """The storages of one work in the program, and where its candidates are."""

    work: ConvolutionWork
    parts: Mapping[Tile, int]
    """Of weight gradients: partial sums."""
    copies: int
    trials: tuple[_Trial, ...]


Group: TypeAlias = "list[tuple[ConvolutionWork, float]]"


class _Bench:
    """Compiles candidates, checks and times them."""

    def __init__(self, device: OpenCLDevice, candidates: Candidates, timer: Timer) -> None:
        self._device, self._candidates, self._time = device, candidates, timer
        self._values = np.random.default_rng(0).standard_normal(PERIOD, np.float32)
        self._program: Program | None = None

    def tiles(self, work: ConvolutionWork) -> Sequence[Tile]:
        """What is tried for a work, the default first."""
        return self._candidates(work.shape, self._device.limits.vector_registers)

    def count_tiles(self, group: Group) -> int:
        """Kernels to compile for a group."""
        return len({tile for work, _ in group for tile in self.tiles(work)})

    def groups(self, works: Group) -> Iterator[Group]:
        """Works that are compiled together, the largest share first: few tiles, one vector width."""
        rest = works
        while rest:
            vector = rest[0][0].shape.vector
            known: set[Tile] = set()
            group: Group = []
            later: Group = []
            for work, share in rest:
                more = known.union(self.tiles(work))
                if work.shape.vector == vector and (not group or len(more) <= MAX_NEW_TILES):
                    known = more
                    group.append((work, share))
                else:
                    later.append((work, share))
            yield group
            rest = later

    def compile(self, group: Group) -> list[_Places]:
        """Build the candidates of a group as one program; some drivers do so when it first runs."""
        program = Program(self._device, group[0][0].shape.vector, batch=1)
        recorded = [self._record(program, work) for work, _ in group]
        weights = max((weight_floats(work) for work, _ in group if isinstance(work, ForwardWork)), default=0)
        sums = max(
            (max(places.parts.values()) * sums_of(work) for places in recorded
             if isinstance(work := places.work, WeightWork)), default=0,
        )  # fmt: skip
        sizes = {"weights": FLOAT_BYTES * weights, "gradients": FLOAT_BYTES * sums}
        moved = program.compile(sizes)
        program.run(0, 0)
        program.wait()
        self._program = program
        return [
            replace(
                places,
                trials=tuple(replace(trial, position=moved[trial.position]) for trial in places.trials),
            )
            for places in recorded
        ]

    def measure(self, work: ConvolutionWork, share: float, places: _Places) -> Outcome:
        """Check the candidates of a work, then time the right ones."""
        assert self._program is not None
        program = self._program
        right = self._right(program, places)
        best = {trial: float("inf") for trial in places.trials}

        def sample(trial: _Trial) -> None:
            seconds = self._time(program, trial.position, trial.position + places.copies)
            best[trial] = min(best[trial], seconds / places.copies)

        default = places.trials[0]
        for trial in right:
            sample(trial)
        fastest = min(best.values())
        racing = [trial for trial in right if best[trial] <= HOPELESS * fastest or trial is default]
        for _ in range(ROUNDS):
            for trial in racing:
                sample(trial)
        winner = min(places.trials, key=lambda trial: best[trial])
        for _ in range(ROUNDS if winner is not default and default in right else 0):
            sample(default)
            sample(winner)
        chosen = winner if best[winner] < (1.0 - GAIN) * best[default] else default
        trials = tuple(Trial(trial.tile, best[trial]) for trial in places.trials)
        return Outcome(work.shape, work.flops, share, trials, chosen.tile)

    def _record(self, program: Program, work: ConvolutionWork) -> _Places:
        """Record copies of each candidate over storages like those of the network."""
        cores = self._device.limits.compute_units
        copies = int(min(max(1, SAMPLE_FLOPS * cores // work.flops), MAX_COPIES))
        trials: list[_Trial] = []
        parts: dict[Tile, int] = {}
        twin = twin_of(work, program.recorded)
        for tile in self.tiles(work):
            self._device.tuned = {work.shape: tile}
            trials.append(_Trial(tile, program.recorded))
            for _ in range(copies):
                if isinstance(twin, ForwardWork):
                    conv2d.forward(program, twin.x, twin.weight, twin.y, twin.window, twin.epilogue)
                else:
                    parts[tile] = conv2d.weight_parts(program, twin.x, twin.dy, twin.window)
                    conv2d.backward_weight(program, twin.x, twin.dy, twin.window, (0, sums_of(twin)))
        return _Places(twin, parts, copies, tuple(trials))

    def _right(self, program: Program, places: _Places) -> list[_Trial]:
        """Fill the storages; the candidates whose first result is the reference's."""
        work = places.work
        x = self._fill(program, work.x)
        if isinstance(work, ForwardWork):
            weights = self._random(weight_floats(work))
            program.write("weights", weights)
            expected = np.stack([forward_by_numpy(work, x, weights, image) for image in _checked(work.y)])
            length = work.weight.channels * len(taps_of(work))
        else:
            expected = weight_gradient_by_numpy(work, x, self._fill(program, work.dy))
            length = work.dy.batch * work.dy.height * work.dy.width
        allowed = tolerance(2 * length, np.float32) * float(np.abs(expected).max())
        found: list[_Trial] = []
        for trial in places.trials:
            result = _run(program, work, trial, places.parts.get(trial.tile, 1))
            worst = float(np.abs(result.reshape(expected.shape) - expected).max())
            if worst <= allowed:
                found.append(trial)
            else:
                _log.warning(
                    "%s computes %s wrongly with %s: off by %.3g, %.3g allowed",
                    *(program.device.name, work.shape, trial.tile, worst, allowed),
                )
        return found

    def _fill(self, program: Program, view: View) -> Float32:
        """Random values where the tensor is, zeros around it; a copy of the whole storage."""
        flat = np.zeros(view.images.floats, np.float32)
        inside = seen(flat, view.place(), view, view.channels)
        inside[...] = self._random(view.size).reshape(inside.shape)
        program.upload(view.images, flat)
        return flat

    def _random(self, count: int) -> Float32:
        """Values that repeat after a prime number of them, which no stride divides."""
        return np.resize(self._values, count)


def _run(program: Program, work: ConvolutionWork, trial: _Trial, parts: int) -> Float32:
    """The result of a candidate: the images checked, or the sum of the partial gradients."""
    if isinstance(work, WeightWork):
        program.run(trial.position, trial.position + 1)
        partial = program.read("gradients", parts * sums_of(work))
        return np.asarray(partial.reshape(parts, -1).sum(axis=0), np.float32)
    images = work.y.images
    starts = [FLOAT_BYTES * (images.offset + image * images.padded_image) for image in _checked(work.y)]
    for start in starts:
        program.write(ARENA, np.zeros(images.padded_image, np.float32), start)
    program.run(trial.position, trial.position + 1)
    flats = [program.read(ARENA, images.padded_image, offset_bytes=start) for start in starts]
    one = replace(work.y, images=replace(images, batch=1))
    return np.stack([seen(flat, work.y.place(), one, work.y.padded_channels) for flat in flats])


def _checked(y: View) -> list[int]:
    """Images whose results are compared: the first, the last and one between."""
    return sorted({0, y.batch // 2, y.batch - 1})
