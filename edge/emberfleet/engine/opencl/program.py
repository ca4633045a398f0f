"""A list of kernel launches over one arena, planned once and then only enqueued.

Launches are recorded first, with symbolic storages. `Program.compile` then plans the arena from
the recorded lives, fills in the offsets, builds the kernels and sets every argument once.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from emberfleet.core.errors import DeviceError
from emberfleet.core.nodes import Padding
from emberfleet.engine.memory import ArenaPlan, BufferRequest, plan_arena
from emberfleet.engine.opencl.device import Buffer, OpenCLDevice, Shared
from emberfleet.engine.opencl.launches import (
    CELL_BYTES,
    Address,
    FusedLaunch,
    LaunchErrors,
    Operation,
    SeparateLaunches,
)
from emberfleet.engine.opencl.layout import NO_HALO, Images, Place, Storage, View, round_up

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FLOAT_BYTES = 4
ARENA = "arena"
MAX_ELEMENTS = (1 << 31) - 1
"""Kernels count in 32-bit integers."""

Argument: TypeAlias = (
    "str | int | np.uint32 | np.float32 | View | Place | tuple[int | Storage, ...] | tuple[float, ...]"
)
"""What a launch is recorded with: the name of a buffer, a number, a tensor, or a short vector in
which a storage stands for its offset."""


MAX_PENDING = 64
"""Copies under way before `Program.write` waits for them."""


@dataclass(frozen=True, slots=True)
class Region:
    """Where a named buffer lies."""

    buffer: Buffer
    offset_bytes: int


@dataclass(frozen=True, slots=True)
class VectorWidth:
    """Compile-time constants of the kernels that have no tile: floats per vector."""

    v: int


class Work(Protocol):
    """What a launch computes, for those that ask how fast it does."""

    @property
    def flops(self) -> int:
        """Multiplications and additions that the result needs: those on padding do not count."""

    @property
    def values_moved(self) -> int:
        """Values read and written when each is touched once."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Work known as numbers."""

    flops: int
    values_moved: int


@dataclass(frozen=True, slots=True)
class Block:
    """Vectors of channels that one group works on."""

    b: int
    v: int


@dataclass(frozen=True, slots=True)
class Call:
    """One launch as recorded."""

    source: str
    kernel: str
    options: DataclassInstance
    groups: tuple[int, ...]
    arguments: tuple[Argument, ...]
    work: Work | None = None

    def storages(self) -> Iterator[Storage]:
        """What it reads or writes in the arena."""
        for argument in self.arguments:
            if isinstance(argument, View):
                yield argument.images
            elif isinstance(argument, Place):
                yield argument.storage
            elif isinstance(argument, tuple):
                yield from (part for part in argument if isinstance(part, Storage))


class Program:
    """Records launches, then runs them."""

    def __init__(
        self, device: OpenCLDevice, vector: int, batch: int, element_bytes: int = FLOAT_BYTES
    ) -> None:
        self.device, self.vector, self.batch = device, vector, batch
        self.element_bytes = element_bytes
        self.arena: ArenaPlan | None = None
        self._regions: dict[str, Region] = {}
        self._sizes: dict[str, int] = {}
        self._runner: SeparateLaunches | FusedLaunch | None = None
        self._pending: list[Any] = []
        self._shared: Shared | None = None
        self._running = False
        self._calls: list[Call] = []
        self._pinned: dict[Storage, tuple[int | None, int | None]] = {}
        self._count = 0

    @property
    def recorded(self) -> int:
        """How many launches are recorded so far: the position of the next."""
        return len(self._calls)

    def images(
        self,
        name: str,
        shape: tuple[int, int, int],
        halo: Padding = NO_HALO,
        spread: tuple[int, int] = (1, 1),
        padded: bool = True,
    ) -> View:
        """New storage for ``(batch, *shape)``, seen as one tensor."""
        height, width, channels = shape
        vector = self.vector if padded else 1
        stored = round_up(channels, vector)
        images = Images(
            self._unique(name),
            0,
            batch=self.batch,
            height=height,
            width=width,
            channels=stored,
            used_channels=channels,
            halo=halo,
            spread=spread,
        )
        return View(images, 0, channels, vector)

    def scratch(self, name: str, floats: int) -> Storage:
        """New storage of a number of floats."""
        return Storage(self._unique(name), floats)

    def emit(
        self,
        source: str,
        kernel: str,
        groups: tuple[int, ...],
        *arguments: Argument,
        options: DataclassInstance | None = None,
        work: Work | None = None,
    ) -> None:
        """Record a launch of `kernel` from ``<source>.cl`` with that many groups."""
        options = options or VectorWidth(self.vector)
        self._calls.append(Call(source, kernel, options, groups, arguments, work))

    def parts(self, view: View, summed: bool = False) -> tuple[tuple[int, int, int, int], int]:
        """Cut the rows of a tensor among groups: ``(H, W, rows per part, rows)`` and the number of parts.

        With `summed` each part leaves sums that are added up later: fewer parts where groups are many.
        """
        rows = view.batch * view.height
        wanted = self.device.summing_groups if summed else self.device.busy_groups
        each = -(-rows // min(rows, wanted))
        return (view.height, view.width, each, rows), -(-rows // each)

    def channel_block(self, view: View) -> tuple[Block, int, int]:
        """A lane's vectors, how many groups share the channels, the channels.

        Four vectors where there is one lane and the channels allow it: loads of whole cache lines in a row.
        """
        vectors = view.padded_channels // self.vector
        b = 4 if vectors % 4 == 0 and self.device.lanes == 1 else 1
        return Block(b, self.vector), vectors // b // self.device.span(vectors // b), view.padded_channels

    def hold(self, storage: Storage, first: bool = False, last: bool = False) -> None:
        """Keep a storage from before the first launch (`first`) or beyond the last (`last`)."""
        before, after = self._pinned.get(storage, (None, None))
        self._pinned[storage] = (-1 if first else before, 1 if last else after)

    @property
    def calls(self) -> tuple[Call, ...]:
        """What is recorded; once compiled, what runs, in order."""
        return tuple(self._calls)

    def size_bytes(self, name: str) -> int:
        """The size that a named buffer was compiled with."""
        return self._sizes[name]

    @property
    def kernels(self) -> list[str]:
        """Names of the kernels in the order in which they run."""
        return self._ready.names

    def uses(self) -> dict[Storage, list[int]]:
        """The recorded positions at which each storage is read or written, in order."""
        found: dict[Storage, list[int]] = {}
        for index, call in enumerate(self._calls):
            for storage in call.storages():
                found.setdefault(storage, []).append(index)
        return found

    def plan(self) -> ArenaPlan:
        """Lay out the arena of what is recorded; position p is the plan's step p + 1."""
        return plan_arena(
            BufferRequest(storage.name, storage.floats * self.element_bytes, first + 1, last + 1)
            for storage, (first, last) in self._lives().items()
        )

    def lay_out(self) -> dict[int, int]:
        """Plan the arena and complete the launches; needs no driver.

        Returns:
            For each recorded position, its position among the kernels: some get one that clears
            a shared storage put before them.
        """
        lives = self._lives()
        names = {storage.name: storage for storage in lives}
        self.arena = self.plan()
        if self.arena.size_bytes // self.element_bytes > MAX_ELEMENTS:
            raise DeviceError(f"the arena of a batch of {self.batch} is too large: use a smaller batch")
        for name, offset in self.arena.offsets.items():
            names[name].offset = offset // self.element_bytes
        to_clear: dict[int, list[Storage]] = {}
        for storage in lives:
            if storage.has_gaps and _shares(storage, lives) and lives[storage][0] >= 0:
                to_clear.setdefault(lives[storage][0], []).append(storage)
        calls: list[Call] = []
        moved: dict[int, int] = {}
        for index, call in enumerate(self._calls):
            calls += [self._clear(storage) for storage in to_clear.get(index, [])]
            moved[index] = len(calls)
            calls.append(call)
        moved[len(self._calls)] = len(calls)
        self._calls = calls
        return moved

    def compile(self, sizes_bytes: Mapping[str, int]) -> dict[int, int]:
        """Lay out the arena, allocate it and the named buffers, build the kernels, give them their arguments.

        Returns:
            See `lay_out`.
        """
        moved = self.lay_out()
        assert self.arena is not None
        self._sizes = {ARENA: self.arena.size_bytes, **sizes_bytes}
        self._allocate(self._sizes)
        operations = [self._prepare(call) for call in self._calls]
        if self.device.fuses:
            assert self._shared is not None
            self._runner = FusedLaunch(self.device, self.vector, operations, self._shared)
        else:
            self._runner = SeparateLaunches(self.device, operations)
        return moved

    def run(self, start: int = 0, stop: int | None = None) -> None:
        """Enqueue the kernels in order; does not wait."""
        self._running = True
        with LaunchErrors("running a kernel"):
            self._ready.run(start, len(self.kernels) if stop is None else stop)

    def set_argument(self, position: int, index: int, value: Any) -> None:
        """Change an argument of the kernel at a position, from the next run on."""
        self._ready.set_argument(position, index, value)

    def write(self, name: str, values: np.ndarray[Any, Any], offset_bytes: int = 0) -> None:
        """Copy to a named buffer before whatever is enqueued next; `values` must not change until `read`."""
        import pyopencl as cl

        if not values.size:
            return
        region = self._regions[name]
        start = region.offset_bytes + offset_bytes
        if self._shared is not None:
            self.wait()
            source = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
            self._shared.values[start : start + source.size] = source
            return
        with LaunchErrors("copying to the device"):
            event = cl.enqueue_copy(
                self.device.queue,
                region.buffer,
                np.ascontiguousarray(values),
                dst_offset=start,
                is_blocking=False,
            )
            # An event that is dropped waits for its copy.
            self._pending.append(event)
            if len(self._pending) > MAX_PENDING:
                self.device.queue.finish()
                self._pending.clear()

    def read(
        self, name: str, count: int, kind: DTypeLike = np.float32, offset_bytes: int = 0
    ) -> np.ndarray[Any, Any]:
        """Copy `count` values from a named buffer, after everything enqueued so far."""
        import pyopencl as cl

        region = self._regions[name]
        start = region.offset_bytes + offset_bytes
        if self._shared is not None:
            self.wait()
            stop = start + count * np.dtype(kind).itemsize
            return self._shared.values[start:stop].view(kind).copy()
        values = np.empty(count, kind)
        with LaunchErrors("copying from the device"):
            cl.enqueue_copy(
                self.device.queue,
                values,
                region.buffer,
                src_offset=start,
                is_blocking=True,
            )
        self._pending.clear()
        return values

    def upload(self, storage: Storage, values: np.ndarray[Any, Any]) -> None:
        """Overwrite a storage from its start; `values` must not change until the next `read`."""
        self.write(ARENA, values, storage.offset * self.element_bytes)

    def download(self, view: View) -> np.ndarray[Any, Any]:
        """The values of a tensor of one pixel per image, ``(N, C)``; waits for the queue."""
        place = view.place()
        count = (view.batch - 1) * place.image + view.channels
        start = (place.storage.offset + place.start) * self.element_bytes
        kind = np.dtype(np.float32 if self.element_bytes == FLOAT_BYTES else np.int8)
        flat = self.read(ARENA, count, kind, start)
        if view.batch == 1:
            return flat.reshape(1, count)
        strides = (place.image * self.element_bytes, self.element_bytes)
        return np.lib.stride_tricks.as_strided(flat, (view.batch, view.channels), strides, writeable=False)

    def wait(self) -> None:
        """Until no kernel runs."""
        if self._running:
            with LaunchErrors("running a kernel"):
                self._ready.wait()
            self._running = False

    @property
    def _ready(self) -> SeparateLaunches | FusedLaunch:
        assert self._runner is not None, "compile first"
        return self._runner

    def _allocate(self, sizes_bytes: Mapping[str, int]) -> None:
        """One memory for all buffers where kernels are fused, else one each."""
        if not self.device.fuses:
            self._regions = {
                name: Region(self.device.allocate(size, f"the {name.replace('_', ' ')} of a network"), 0)
                for name, size in sizes_bytes.items()
            }
            return
        offsets: dict[str, int] = {}
        total = 0
        for name, size in sizes_bytes.items():
            offsets[name] = total
            total += round_up(max(size, 1), CELL_BYTES)
        self._shared = self.device.share(total, f"a network at a batch of {self.batch}")
        # The host owns this memory: it must not go while a kernel still runs in it.
        weakref.finalize(self, self.device.finish)
        self._regions = {name: Region(self._shared.buffer, offset) for name, offset in offsets.items()}

    def _unique(self, name: str) -> str:
        self._count += 1
        return f"{name}#{self._count}"

    def _lives(self) -> dict[Storage, tuple[int, int]]:
        lives = {storage: (positions[0], positions[-1]) for storage, positions in self.uses().items()}
        for storage, (before, after) in self._pinned.items():
            first, last = lives.get(storage, (0, 0))
            lives[storage] = (first if before is None else -1, last if after is None else len(self._calls))
        return lives

    def _clear(self, storage: Storage) -> Call:
        """Zeros where nobody writes: the halo where that is all, else everywhere."""
        if isinstance(storage, Images) and storage.halo_is_the_only_gap:
            rows = storage.padded_image // storage.padded_row
            stored = (rows, storage.padded_row // storage.channels, storage.channels, 0)
            halo: tuple[Argument, ...] = (ARENA, (storage,), storage.halo, stored)
            inside = storage.batch * storage.height * storage.width * storage.channels
            work = Counted(0, storage.floats - inside)
            options = VectorWidth(self.vector)
            return Call("elementwise", "clear_halo_f32", options, (storage.batch,), halo, work)
        groups = max(1, min(storage.floats // 4096, 2 * self.device.limits.compute_units))
        stretch = round_up(-(-storage.floats // groups), self.vector)
        arguments: tuple[Argument, ...] = (ARENA, (storage,), storage.floats, stretch)
        return Call("elementwise", "fill_zero_f32", VectorWidth(self.vector), (groups,), arguments)

    def _prepare(self, call: Call) -> Operation:
        arguments = tuple(self._resolve(argument) for argument in call.arguments)
        return Operation(call.source, call.kernel, call.options, call.groups, arguments)

    def _resolve(self, argument: Argument) -> Any:
        if isinstance(argument, str):
            region = self._regions[argument]
            return Address(region.offset_bytes) if self.device.fuses else region.buffer
        return kernel_value(argument)


def kernel_value(argument: Argument) -> Any:
    """What a kernel is given for an argument that is no buffer's name, once the arena is laid out."""
    if isinstance(argument, View):
        argument = argument.place()
    if isinstance(argument, Place):
        start = argument.storage.offset + argument.start
        return np.array([start, argument.image, argument.row, argument.pixel], np.int32)
    if isinstance(argument, tuple):
        if any(isinstance(part, float) for part in argument):
            return np.array(argument, np.float32)
        numbers = [part.offset if isinstance(part, Storage) else part for part in argument]
        return np.array(numbers, np.int32)
    return np.int32(argument) if isinstance(argument, int) else argument


def _shares(storage: Storage, others: Iterable[Storage]) -> bool:
    start, stop = storage.offset, storage.offset + storage.floats
    return any(
        other is not storage and other.offset < stop and start < other.offset + other.floats
        for other in others
    )
