"""Two ways to run a sequence of kernels: each by a launch of its own, or all by one launch.

Separate launches suit every device. Fused ones are for PoCL, whose groups are threads of the host: there
a launch costs 45 microseconds where it has to wake threads, and all but one thread sleep between two
kernels. In a fused launch the calling thread computes itself, the others help as soon as they are awake
and stay so for a whole step, and one program is compiled, loaded and called instead of dozens.
The kernels' text is the same: each .cl file is put into the program once for each set of options in use,
its names made distinct by `#define`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from emberfleet.core.arrays import Int32
from emberfleet.core.errors import BuildError, DeviceError
from emberfleet.engine.opencl.device import (
    PRELUDE,
    Buffer,
    Kernel,
    OpenCLDevice,
    Shared,
    define_options,
    foreign_errors,
    read_source,
)

CELL_BYTES = 64
"""Buffers lie in one memory at multiples of this."""

COUNTER_BYTES = 128
"""Of the counters of one operation, and of those of a run (fused.cl)."""

MOST_OPERATIONS = (1 << 16) - 1
ALONE, POSTS, HELPS = range(3)
"""What a group does (fused.cl)."""

PATIENCE_CYCLES = 300_000
"""How long a helper waits for the next run before it sleeps: 100 microseconds at 3 GHz."""

_NAME = re.compile(r"^(?:KERNEL\((\w+)\)|static inline \w+ (\w+)\(|typedef .*?(\w+);)", re.MULTILINE)
"""What a .cl file defines: kernels, helper functions, types."""
_MACRO = re.compile(r"^#define (\w+)", re.MULTILINE)


class LaunchErrors:
    """`foreign_errors` for what is done in every step: it costs a tenth of a microsecond, not four."""

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        """Nothing is prepared: no compiler runs here that would warn."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise a driver's error as a `DeviceError`."""
        if error is not None:
            with foreign_errors(self._doing):
                raise error


@dataclass(frozen=True, slots=True)
class Operation:
    """One kernel call: where its function is, how it is cut, what it is given."""

    source: str
    kernel: str
    options: Any
    groups: tuple[int, ...]
    arguments: tuple[Any, ...]
    """Buffers (`Address` where all lie in one memory), numpy scalars and vectors of at most 16 bytes."""


@dataclass(frozen=True, slots=True)
class Address:
    """A buffer as an argument: its place in the one memory."""

    offset_bytes: int


class SeparateLaunches:
    """A sequence of operations, each a launch of its own."""

    def __init__(self, device: OpenCLDevice, operations: Sequence[Operation]) -> None:
        self.names = [operation.kernel for operation in operations]
        self._queue = device.queue
        self._launches = []
        for operation in operations:
            kernel = device.kernel(operation.source, operation.kernel, operation.options)
            kernel.set_args(*operation.arguments)
            items = (operation.groups[0] * device.lanes, *operation.groups[1:])
            group = (device.lanes, *(1 for _ in operation.groups[1:]))
            self._launches.append((kernel, items, group))

    def run(self, start: int, stop: int) -> None:
        """Enqueue operations from `start` to before `stop`; does not wait."""
        import pyopencl as cl

        enqueue = cl.enqueue_nd_range_kernel
        for kernel, items, group in self._launches[start:stop]:
            enqueue(self._queue, kernel, items, group)

    def wait(self) -> None:
        """Until no kernel runs."""
        self._queue.finish()

    def set_argument(self, position: int, index: int, value: Any) -> None:
        """Change one argument of one operation from the next run on."""
        self._launches[position][0].set_arg(index, value)


class FusedLaunch:
    """A sequence of operations, run by one launch.

    Where there are several threads, the calling thread runs the program through PoCL's device for it, and a
    second launch has the others help. That one may outlast a run: whoever drops this waits for the device.
    Where PoCL has no such device, all are helpers of a run that the host posts.
    """

    def __init__(
        self, device: OpenCLDevice, vector: int, operations: Sequence[Operation], memory: Shared
    ) -> None:
        if len(operations) > MOST_OPERATIONS:
            raise DeviceError(
                f"a network of {len(operations)} launches, at most {MOST_OPERATIONS} are possible"
            )
        self.names = [operation.kernel for operation in operations]
        functions: dict[tuple[str, str, Any], int] = {}
        firsts: list[Operation] = []
        cases: list[str] = []
        width = 1 + max((len(operation.arguments) for operation in operations), default=0)
        self._table: Int32 = np.zeros((len(operations), width, 4), np.int32)
        for index, operation in enumerate(operations):
            key = (operation.source, operation.kernel, operation.options)
            if key not in functions:
                functions[key] = len(functions)
                firsts.append(operation)
            groups = (*operation.groups, 1, 1)[:3]
            self._table[index, 0] = (functions[key], *groups)
            for place, argument in enumerate(operation.arguments):
                self._put(index, place, argument)
        sections = list(dict.fromkeys((first.source, first.options) for first in firsts))
        for number, first in enumerate(firsts):
            given = ", ".join(f"{_accessor(a)}({i})" for i, a in enumerate(first.arguments))
            section = sections.index((first.source, first.options))
            cases.append(f"case {number}: {first.kernel}_{section}(group, {given}); break;")
        text = compose(sections, cases, width)
        self._rows = device.share(self._table.nbytes, "the operations of a network")
        self._counters = device.share(COUNTER_BYTES * (1 + len(operations)), "counters")
        self._helpers_there = self._counters.values[COUNTER_BYTES // 2 :][:4].view(np.int32)
        self._helpers: Kernel | None = None
        self._buffers: list[Buffer] = []
        helpers = device.limits.compute_units - 1
        caller = device.calling_thread()
        if helpers and caller is not device:
            self._helpers = self._kernel_on(device, text, vector, memory)
            self._helpers.set_arg(3, np.array([0, 0, HELPS, PATIENCE_CYCLES], np.int32))
        self._device, self._caller, self._count = device, caller, helpers
        self._role = POSTS if self._helpers is not None else HELPS if helpers else ALONE
        self._groups = 1 + helpers if self._role == HELPS else 1
        self._posted = self._counters.values[:8].view(np.uint64)
        self._kernel = self._kernel_on(caller, text, vector, memory)
        self._range: tuple[int, int] | None = None
        self._changed = True

    def run(self, start: int, stop: int) -> None:
        """Run operations from `start` to before `stop`; what reads the results calls `wait` first."""
        import pyopencl as cl

        if self._changed:
            self.wait()
            self._rows.values[: self._table.nbytes] = self._table.reshape(-1).view(np.uint8)
            self._changed = False
        if self._role == HELPS:
            self.wait()
            run = (int(self._posted[0]) >> 32) + 1 & 0xFFFFFFFF
            self._posted[0] = run << 32 | start << 16 | stop
        if (start, stop) != self._range:
            self._range = start, stop
            self._kernel.set_arg(3, np.array([start, stop, self._role, 0], np.int32))
        if self._helpers is not None and not self._helpers_there[0]:
            self._helpers_there[0] = self._count
            cl.enqueue_nd_range_kernel(self._device.queue, self._helpers, (self._count,), (1,))
            self._device.queue.flush()
        cl.enqueue_nd_range_kernel(self._caller.queue, self._kernel, (self._groups,), (1,))

    def wait(self) -> None:
        """Until all tasks are done; helpers may still be looking for more."""
        self._caller.queue.finish()

    def _kernel_on(self, device: OpenCLDevice, text: str, vector: int, memory: Shared) -> Kernel:
        """The program's kernel on one of the two devices of a processor, with its arguments."""
        program = device.build_text("fused", text, vector)
        with foreign_errors("preparing a network's program", BuildError):
            import pyopencl as cl

            kernel = cl.Kernel(program, "run_all")
            buffers = [device.view(shared) for shared in (memory, self._rows, self._counters)]
            kernel.set_args(*buffers, np.zeros(4, np.int32))
        self._buffers += buffers  # a kernel does not hold them
        return kernel

    def set_argument(self, position: int, index: int, value: Any) -> None:
        """Change one argument of one operation from the next run on; nothing may be running."""
        self._put(position, index, value)
        self._changed = True

    def _put(self, position: int, index: int, value: Any) -> None:
        if isinstance(value, Address):
            value = np.int32(value.offset_bytes // CELL_BYTES)
        words = np.atleast_1d(value).view(np.int32)
        self._table[position, 1 + index, : len(words)] = words


def compose(sections: Sequence[tuple[str, Any]], cases: Sequence[str], width: int) -> str:
    """The text of a program: prelude, each file with its options, the loop over operations."""
    text = ["#define FUSED", read_source(PRELUDE)]
    for number, (source, options) in enumerate(sections):
        body = read_source(source)
        defined = sorted({"".join(found) for found in _NAME.findall(body)})
        given = [
            option[2:].replace("=", " ", 1)
            for option in define_options(options)
            if not option.startswith("-DV=")
        ]
        text += [f"#define {definition}" for definition in given]
        text += [f"#define {name} {name}_{number}" for name in defined]
        text.append(body)
        names = [definition.split()[0] for definition in given] + defined + _MACRO.findall(body)
        text += [f"#undef {name}" for name in dict.fromkeys(names)]
    text += [f"#define FUSED_ROW {width}", "#define FUSED_CASES " + " ".join(cases), read_source("fused")]
    return "\n".join(text) + "\n"


def _accessor(argument: Any) -> str:
    """The macro of fused.cl that reads an argument."""
    if isinstance(argument, Address):
        return "P"
    kind, size = np.asarray(argument).dtype, np.asarray(argument).size
    if kind == np.float32:
        return "F" if size == 1 else "F4"
    if kind == np.uint32:
        return "U"
    return "I" if size == 1 else "I2" if size == 2 else "I4"
