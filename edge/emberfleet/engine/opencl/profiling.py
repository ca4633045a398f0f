"""How long each kernel of a compiled program takes, beside what it computes and moves.

Kernels are timed one by one, each repeated on the values that the step left for it; what a launch
costs by itself is taken off. Sums of these times are a little below a step's, whose kernels find the
caches as others left them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from emberfleet.engine.opencl.conv2d import ForwardWork, WeightWork, Window
from emberfleet.engine.opencl.depthwise import DepthwiseWork
from emberfleet.engine.opencl.device import OpenCLDevice
from emberfleet.engine.opencl.layout import Place, Storage, View
from emberfleet.engine.opencl.program import ARENA, Call, Program, Work
from emberfleet.engine.opencl.tuning import Timer, timer_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ROUNDS, LAUNCHES = 5, 10
SAMPLE_SECONDS = 5e-4
MAX_REPEATS = 64

PEAK_SUMS, PEAK_TURNS, PEAK_ROUNDS = 16, 20_000, 20
"""Vectors of peak.cl, multiply-adds of each, and samples."""


@dataclass(frozen=True, slots=True)
class KernelTime:
    """One launch of a program."""

    position: int
    kernel: str
    seconds: float
    flops: int
    """Of convolutions; other kernels count none. Products and sums on padding do not count."""
    moved_bytes: int
    """Values that it reads and writes, each counted once."""
    groups: tuple[int, ...]
    shape: str
    """Of a convolution: window, channels, outputs, rows and pixels."""
    tile: str
    """The kernel's compile-time constants."""


@dataclass(frozen=True, slots=True)
class KernelTotal:
    """All launches of one kernel."""

    kernel: str
    calls: int
    seconds: float
    flops: int
    moved_bytes: int


def profile(
    program: Program, first: int = 0, rounds: int = ROUNDS, timer: Timer | None = None
) -> tuple[KernelTime, ...]:
    """Time every kernel of a program that has run: the fastest of some rounds, in the order of the step.

    The program's values change: kernels that add to what is there run many times.

    Args:
        program: Compiled, and run once or more.
        first: Position of the first kernel of a run.
        rounds: How often the whole run and each of its kernels are gone through.
        timer: Seconds from one position to before another.
    """
    measure = timer or timer_of(program.device)
    calls = program.calls
    best = dict.fromkeys(range(first, len(calls)), float("inf"))
    launch = min(measure(program, first, first) for _ in range(LAUNCHES))
    for _ in range(rounds):
        measure(program, first, len(calls))
        for index in best:
            once = measure(program, index, index + 1)
            repeats = min(int(SAMPLE_SECONDS / max(once, 1e-9)), MAX_REPEATS)
            samples = [once, *(measure(program, index, index + 1) for _ in range(repeats))]
            best[index] = min(best[index], *samples)
    return tuple(
        KernelTime(
            position=index,
            kernel=calls[index].kernel,
            seconds=max(seconds - launch, 1e-9),
            flops=work.flops if (work := calls[index].work) else 0,
            moved_bytes=moved_bytes(program, calls[index]),
            groups=calls[index].groups,
            shape=_shape(work),
            tile=_tile(calls[index].options),
        )
        for index, seconds in best.items()
    )


def totals(times: Iterable[KernelTime]) -> tuple[KernelTotal, ...]:
    """Sums by kernel, the slowest first."""
    found: dict[str, list[KernelTime]] = {}
    for time in times:
        found.setdefault(time.kernel, []).append(time)
    sums = [
        KernelTotal(
            kernel,
            len(group),
            sum(time.seconds for time in group),
            sum(time.flops for time in group),
            sum(time.moved_bytes for time in group),
        )
        for kernel, group in found.items()
    ]
    return tuple(sorted(sums, key=lambda total: -total.seconds))


def moved_bytes(program: Program, call: Call) -> int:
    """What a launch reads and writes, every tensor named counted once, in bytes.

    Kernels that work on whole buffers (the optimizer, packing weights) count those.
    """
    if call.work is not None:
        return call.work.values_moved * program.element_bytes
    values = 0
    for argument in call.arguments:
        if isinstance(argument, View):
            values += argument.batch * argument.height * argument.width * argument.padded_channels
        elif isinstance(argument, Place):
            values += argument.storage.floats
        elif isinstance(argument, tuple):
            values += sum(part.floats for part in argument if isinstance(part, Storage))
    if values:
        return values * program.element_bytes
    return sum(
        program.size_bytes(argument)
        for argument in call.arguments
        if isinstance(argument, str) and argument != ARENA
    )


def peak_flops(device: OpenCLDevice, timer: Timer | None = None) -> float:
    """Multiplications and additions in float32 that all cores of a device do in a second."""
    measure = timer or timer_of(device)
    groups = device.busy_groups
    program = Program(device, device.limits.vector_width, batch=1)
    storage = program.scratch("sums", groups * program.vector)
    program.emit("peak", "peak_f32", (groups,), ARENA, (storage, PEAK_TURNS, 0, 0), (0.5, 0.25, 0.0, 0.0))
    program.compile({})
    program.run()
    seconds = min(measure(program, 0, 1) for _ in range(PEAK_ROUNDS))
    return 2.0 * PEAK_SUMS * program.vector * PEAK_TURNS * groups * device.lanes / seconds


def _shape(work: Work | None) -> str:
    match work:
        case ForwardWork():
            return _window_shape(work.window, work.weight.channels, work.y)
        case WeightWork():
            return _window_shape(work.window, work.x.channels, work.dy)
        case DepthwiseWork():
            return _window_shape(work.window, 1, work.y)
        case _:
            return ""


def _window_shape(window: Window, channels: int, y: View) -> str:
    """Window, input channels that each output reads, outputs, images of rows x pixels."""
    down, across = window.kernel
    return f"{down}x{across}, {channels} -> {y.channels}, {y.batch} x {y.height}x{y.width}"


def _tile(options: DataclassInstance) -> str:
    return " ".join(f"{slot.name}={getattr(options, slot.name):d}" for slot in fields(options))
