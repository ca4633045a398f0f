"""One OpenCL device, opened once: context, in-order queue, limits, and programs built from .cl files.

pyopencl is imported here alone, where a device is opened, and every error it raises leaves as a
`DeviceError` that says what to do.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeAlias

from emberfleet.core.arrays import UInt8
from emberfleet.core.errors import BuildError, ConfigError, DeviceError
from emberfleet.core.processor import usable_cores
from emberfleet.engine.opencl import binaries
from emberfleet.engine.opencl.limits import (
    GPU_VECTOR,
    LANE_REGISTERS,
    MOST_PARTS,
    Family,
    Limits,
    lanes_of,
    read_features,
    read_limits,
    wanted_family,
)
from emberfleet.engine.opencl.pocl_cpu import mend_unknown_cpu

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# pyopencl ships partial types that differ between versions: what crosses into it is typed here.
Program: TypeAlias = Any
Kernel: TypeAlias = Any
Buffer: TypeAlias = Any

PRELUDE = "prelude"
"""The .cl file put before every other one."""

THREADS_VARIABLE = "EMBERFLEET_THREADS"
PLATFORM_VARIABLE = "EMBERFLEET_OPENCL_PLATFORM"
CALLING_THREAD = ("basic", "cpu-minimal")
"""How the names begin of PoCL's devices that compute on the calling thread: up to version 3, from 4 on."""

SHORT_WORK = 8_000_000
"""Products that one core sums in 25 (int8) to 75 microseconds (float): too few to share."""

BINARY_HEADER = b"poclbin\0"
BINARY_DEVICE = slice(8, 16)
"""How PoCL's binaries begin, and where they name the device that they were built for."""

_log = logging.getLogger(__name__)


ALIGNMENT_BYTES = 128
"""Of memory shared with the host: the widest vector of OpenCL."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Memory of the host that a device computes in."""

    buffer: Buffer
    values: UInt8


@dataclass(eq=False)
class OpenCLDevice:
    """An open device. Programs are built once per process and kept in the driver's disk cache."""

    name: str
    driver: str
    limits: Limits
    context: Any
    queue: Any
    cpu_name: str | None = None
    """The name `pocl_cpu` gave the processor, or None where nothing needed mending."""
    flags: tuple[str, ...] = ()
    tuned: dict[Any, Any] = field(default_factory=dict, repr=False)
    """Tiles measured on this device to be the fastest, by the shape of the work (`tiles.py`)."""
    tiles_remembered: bool = field(init=False, default=False, repr=False)
    """Whether `tuned` holds what earlier processes measured (`tuned_tiles.py`)."""
    features: frozenset[str] = frozenset()
    """OpenCL extensions, and for a processor its flags as Linux names them."""
    groups_are_threads: bool = False
    """Whether groups run on threads of the host, so that one launch may run all kernels of a program."""
    family: Family = "cpu"
    cpu_width: int = GPU_VECTOR
    cpu_registers: int = 16
    """Floats per vector, and vector registers, in the cpu family; `limits` has those of the family in use."""
    keeps_binaries: bool = False
    """Whether composed programs are kept as binaries: for PoCL, whose own cache is slow to read."""
    fuses: bool = field(init=False)
    """Whether programs are fused into one launch each."""
    _calling: OpenCLDevice | None = field(init=False, default=None, repr=False)
    _lender: OpenCLDevice | None = field(init=False, default=None, repr=False)
    """The other device of the same processor: its programs run here too."""
    _programs: dict[tuple[str, Any], Program] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.family == "cpu":
            self.limits = replace(self.limits, vector_width=self.cpu_width)
        else:
            self.limits = replace(self.limits, vector_width=GPU_VECTOR, vector_registers=LANE_REGISTERS)
        self.fuses = self.groups_are_threads and self.family == "cpu"

    @property
    def lanes(self) -> int:
        """Work-items of a group."""
        return lanes_of(self.family, self.limits)

    @property
    def busy_groups(self) -> int:
        """Groups that keep the whole device busy to the end."""
        units = self.limits.compute_units
        return max(4 * units, 8) if self.family == "cpu" else 16 * units

    @property
    def summing_groups(self) -> int:
        """Groups that leave partial sums, which every group of the next kernel adds up."""
        return self.busy_groups if self.family == "cpu" else min(self.busy_groups, MOST_PARTS)

    def span(self, vectors: int) -> int:
        """How many lanes lie side by side over that many vectors of channels (SPAN_OF in prelude.cl)."""
        return math.gcd(vectors, self.lanes)

    def cuts(self, jobs: int, most: int) -> int:
        """Among how many groups each of a number of jobs is shared, to keep the device busy."""
        return 1 if self.lanes == 1 else max(1, min(self.busy_groups // max(jobs, 1), most))

    def in_family(self, family: Family) -> OpenCLDevice:
        """This device computing in a family, on the same queue; itself where it does already."""
        if family == self.family:
            return self
        limits = replace(self.limits, vector_registers=self.cpu_registers)
        return replace(self, family=family, limits=limits, tuned={})

    def suited(self, products: int, short: int = SHORT_WORK) -> OpenCLDevice:
        """The calling thread's device for a run so short that it would end while other threads wake up."""
        return self.calling_thread() if products < short else self

    def calling_thread(self) -> OpenCLDevice:
        """The same processor on the calling thread, for work shorter than waking others; else this device."""
        if not self.fuses or self.limits.compute_units == 1:
            return self
        if self._calling is None:
            import pyopencl as cl

            (own,) = self.context.devices
            devices = own.platform.get_devices()
            found = [d for d in devices if str(d.name).startswith(CALLING_THREAD)]
            if not found or mend_unknown_cpu(found[0], str(own.platform.version), devices) != self.cpu_name:
                return self
            with foreign_errors("opening the calling thread's device"):
                context = cl.Context([found[0]])
                self._calling = replace(
                    self,
                    name=str(found[0].name).strip(),
                    context=context,
                    queue=cl.CommandQueue(context),
                    limits=replace(self.limits, compute_units=1),
                    tuned={},
                )
            self._calling._lender = self
        return self._calling

    def finish(self) -> None:
        """Wait for everything enqueued, on the calling thread's device as well."""
        for device in (self._calling, self):
            if device is not None:
                device.queue.finish()

    def build(self, source_name: str, options: DataclassInstance | None = None) -> Program:
        """Build ``<source_name>.cl`` with the options as ``-D`` definitions, or take it from the cache.

        Raises:
            DeviceError: the driver refuses; the text holds the build log and what to do.
        """
        key = (source_name, options)
        if key not in self._programs:
            source = read_source(PRELUDE) + "\n" + read_source(source_name)
            self._programs[key] = self._compile(source_name, source, self.definitions(options))
        return self._programs[key]

    def definitions(self, options: DataclassInstance | None) -> list[str]:
        """All that a source is built with on this device: the options and what the device adds."""
        definitions = define_options(options)
        if not any(definition.startswith("-DV=") for definition in definitions):
            definitions.append(f"-DV={self.limits.vector_width}")
        if self.lanes > 1:
            definitions.append(f"-DLANES={self.lanes}")
        if not self.limits.int64:
            definitions.append("-DNO_INT64")
        return definitions

    def build_text(self, name: str, source: str, vector: int) -> Program:
        """Build a program composed by the caller (see `build`); `name` is for messages.

        Where the device keeps binaries, one is taken from the disk or left there for later processes.
        """
        key = (source, vector)
        if key not in self._programs:
            self._programs[key] = self._load_or_compile(name, source, vector)
        return self._programs[key]

    def kernel(self, source_name: str, kernel_name: str, options: DataclassInstance | None = None) -> Kernel:
        """A fresh kernel object (its arguments are its own) of a program built by `build`.

        Raises:
            BuildError: the driver refuses, or the kernel needs so much that fewer lanes fit a group.
        """
        import pyopencl as cl

        program = self.build(source_name, options)
        with foreign_errors(f"preparing {kernel_name} for '{self.name}'", BuildError):
            kernel = cl.Kernel(program, kernel_name)
            (device,) = self.context.devices
            allowed = kernel.get_work_group_info(cl.kernel_work_group_info.WORK_GROUP_SIZE, device)
        if allowed < self.lanes:
            raise BuildError(
                f"'{self.name}' runs {kernel_name} in groups of at most {allowed}, not {self.lanes}"
            )
        return kernel

    def allocate(self, size_bytes: int, purpose: str) -> Buffer:
        """A zero-filled device buffer.

        Raises:
            DeviceError: larger than the device allows, or no memory is left.
        """
        import numpy as np
        import pyopencl as cl

        size_bytes = self._checked(size_bytes, purpose)
        with foreign_errors(f"allocating {size_bytes} bytes for {purpose}"):
            buffer = cl.Buffer(self.context, cl.mem_flags.READ_WRITE, size=size_bytes)
            cl.enqueue_fill_buffer(self.queue, buffer, np.uint8(0), 0, size_bytes)
            self.queue.finish()
        return buffer

    def share(self, size_bytes: int, purpose: str) -> Shared:
        """Zeroed memory that kernels and the host use alike, where groups are threads of the host.

        The host may touch it only while no kernel runs. It costs no memory where nobody writes.

        Raises:
            DeviceError: larger than the device allows, or no memory is left.
        """
        import numpy as np
        import pyopencl as cl

        size_bytes = self._checked(size_bytes, purpose)
        with foreign_errors(f"allocating {size_bytes} bytes for {purpose}"):
            room = np.zeros(size_bytes + ALIGNMENT_BYTES, np.uint8)
            first = -room.ctypes.data % ALIGNMENT_BYTES
            values = room[first : first + size_bytes]
            flags = cl.mem_flags.READ_WRITE | cl.mem_flags.USE_HOST_PTR
            return Shared(cl.Buffer(self.context, flags, hostbuf=values), values)

    def view(self, shared: Shared) -> Buffer:
        """The buffer here of memory that another device of the same processor shares."""
        import pyopencl as cl

        if shared.buffer.context == self.context:
            return shared.buffer
        with foreign_errors("sharing memory with the calling thread"):
            flags = cl.mem_flags.READ_WRITE | cl.mem_flags.USE_HOST_PTR
            return cl.Buffer(self.context, flags, hostbuf=shared.values)

    def _checked(self, size_bytes: int, purpose: str) -> int:
        size_bytes = max(size_bytes, 64)
        if size_bytes > self.limits.max_allocation_bytes:
            raise DeviceError(
                f"{purpose}: {size_bytes} bytes are needed, '{self.name}' allows "
                f"{self.limits.max_allocation_bytes} in one buffer; use a smaller batch"
            )
        return size_bytes

    def _compile(self, name: str, source: str, definitions: list[str]) -> Program:
        import pyopencl as cl

        with foreign_errors(f"building {name}.cl for '{self.name}'", BuildError):
            return cl.Program(self.context, source).build(options=[*self.flags, *definitions])

    def _load_or_compile(self, name: str, source: str, vector: int) -> Program:
        import pyopencl as cl

        definitions = [f"-DV={vector}"]
        if not self.keeps_binaries:
            return self._compile(name, source, definitions)
        key = binaries.key(source, *self.flags, *definitions, self.name, self.driver)
        kept = binaries.load(key)
        if kept is not None:
            try:
                return self._load(name, kept)
            except DeviceError as error:
                _log.warning("%s; building it again", error)
        built = self._borrow(name, (source, vector)) or self._compile(name, source, definitions)
        with foreign_errors(f"reading the binary of {name}.cl"):
            binaries.save(key, built.get_info(cl.program_info.BINARIES)[0])
        return built

    def _borrow(self, name: str, key: tuple[str, int]) -> Program | None:
        """What the lender built: the same code under another device's name; None: build it here."""
        import pyopencl as cl

        program = self._lender and self._lender._programs.get(key)
        if not program:
            return None
        mark = self._compile("mark", "__kernel void mark() {}", [])
        with foreign_errors(f"reading the binary of {name}.cl"):
            binary, own = (bytes(p.get_info(cl.program_info.BINARIES)[0]) for p in (program, mark))
        if not binary.startswith(BINARY_HEADER) or not own.startswith(BINARY_HEADER):
            return None
        start, stop = BINARY_DEVICE.start, BINARY_DEVICE.stop
        try:
            return self._load(name, binary[:start] + own[start:stop] + binary[stop:])
        except DeviceError as error:
            _log.info("%s; building it here", error)
            return None

    def _load(self, name: str, binary: bytes) -> Program:
        import pyopencl as cl

        with foreign_errors(f"loading {name}.cl for '{self.name}'"):
            return cl.Program(self.context, self.context.devices, [binary]).build()


def define_options(options: DataclassInstance | None) -> list[str]:
    """``-DNAME=value`` for each field of a frozen dataclass; True is 1, False leaves the name out."""
    if options is None:
        return []
    values = {slot.name.upper(): getattr(options, slot.name) for slot in fields(options)}
    return [f"-D{name}={int(value)}" for name, value in values.items() if value is not False]


@cache
def read_source(source_name: str) -> str:
    """The text of ``<source_name>.cl`` beside this module."""
    return (resources.files(__package__) / f"{source_name}.cl").read_text(encoding="utf-8")


_open_devices: dict[tuple[str | None, int | None, Family | None], OpenCLDevice] = {}


def open_device(
    platform: str | None = None, threads: int | None = None, family: Family | None = None
) -> OpenCLDevice:
    """Open the first CPU device, or the first device of the platform whose name contains `platform`.

    A device is opened once per process and shared. The number of threads is fixed by the first
    opening: PoCL starts its threads when its platform is first asked for devices.

    Args:
        platform: Part of a platform's name; None: EMBERFLEET_OPENCL_PLATFORM, else any.
        threads: Most threads of a CPU; None: EMBERFLEET_THREADS, else all cores.
        family: What the device computes in; ``gpu`` also prefers a device that is no CPU. None:
            EMBERFLEET_OPENCL_FAMILY, else ``cpu`` for a CPU and ``gpu`` for all others.

    Raises:
        DeviceError: pyopencl or a platform is missing, or the device does not open.
        ConfigError: the number of threads is not a positive number, or there is no such family.
    """
    threads = _wanted_threads(threads)
    family = family or wanted_family()
    platform = platform or os.environ.get(PLATFORM_VARIABLE) or None
    key = (platform, threads, family)
    if key not in _open_devices:
        _open_devices[key] = _open(platform, threads, family)
    return _open_devices[key]


@contextmanager
def foreign_errors(doing: str, kind: type[DeviceError] = DeviceError) -> Iterator[None]:
    """Turn pyopencl's errors into errors of a kind and keep its compiler warnings quiet."""
    import pyopencl as cl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cl.CompilerWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"(pyopencl|pytools|siphash24).*")
        try:
            yield
        except cl.Error as error:
            raise kind(f"{doing} failed: {_advice(str(error))}") from error
        except MemoryError as error:
            raise kind(f"{doing} failed: the device is out of memory; use a smaller batch") from error


def _advice(log: str) -> str:
    text = log.strip()
    if "unknown target CPU" in text:
        return (
            "this PoCL does not know this processor; install a newer one (apt install pocl-opencl-icd) "
            f"or use the numpy backend. The driver says: {text}"
        )
    if "OUT_OF_RESOURCES" in text or "ALLOCATION_FAILURE" in text or "OUT_OF_HOST_MEMORY" in text:
        return f"the device is out of memory; use a smaller batch. The driver says: {text}"
    return text


def _wanted_threads(threads: int | None) -> int | None:
    if threads is None and os.environ.get(THREADS_VARIABLE):
        text = os.environ[THREADS_VARIABLE]
        if not text.isdecimal():
            raise ConfigError(f"{THREADS_VARIABLE} is '{text}', expected a positive number")
        threads = int(text)
    if threads is not None and threads < 1:
        raise ConfigError(f"the number of threads is {threads}, expected 1 or more")
    return threads


def _open(platform: str | None, threads: int | None, family: Family | None) -> OpenCLDevice:
    _prepare_pocl(threads)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pyopencl as cl
    except ImportError as error:
        raise DeviceError(
            f"OpenCL is not usable ({error}); install it with: pip install 'emberfleet[opencl]'"
        ) from error
    with foreign_errors("opening an OpenCL device"):
        found = _choose(_platforms(cl), platform, threads, family)
        version = str(found.platform.version)
        if "pocl" in version.lower() and shutil.which("ld") is None:
            # Without it PoCL aborts the whole process at the first kernel that is not in its cache.
            raise DeviceError("PoCL needs the linker 'ld' and it is not on PATH; install binutils")
        cpu_name = mend_unknown_cpu(found, version, _devices(cl, found.platform))
        context = cl.Context([found])
        queue = cl.CommandQueue(context)
        flags: tuple[str, ...] = (f"-DHOST_CPU_{cpu_name.replace('-', '_')}",) if cpu_name else ()
        if "pocl" in version.lower():
            flags += ("-DBUILTIN_SQRT",)
        limits = read_limits(found, cpu_name)
        is_cpu = bool(found.type & cl.device_type.CPU)
        return OpenCLDevice(
            name=str(found.name).strip(),
            driver=f"{str(found.platform.name).strip()} {found.driver_version}",
            limits=limits,
            context=context,
            queue=queue,
            cpu_name=cpu_name,
            flags=flags,
            features=read_features(found),
            groups_are_threads="pocl" in version.lower() and is_cpu,
            family=family or ("cpu" if is_cpu else "gpu"),
            cpu_width=limits.vector_width,
            cpu_registers=limits.vector_registers,
            keeps_binaries="pocl" in version.lower(),
        )


def _prepare_pocl(threads: int | None) -> None:
    """Ask PoCL for its two CPU drivers: `basic` computes on the calling thread, `pthread` on its own.

    Waking a thread and being woken by it takes 45 microseconds, which `basic` does without. PoCL reads
    these once, when its platform is first asked for.
    """
    os.environ.setdefault("POCL_DEVICES", "basic pthread")
    if threads is not None:
        os.environ["POCL_MAX_PTHREAD_COUNT"] = str(threads)


def _platforms(cl: Any) -> list[Any]:
    try:
        return list(cl.get_platforms())
    except cl.Error:
        return []


def _devices(cl: Any, platform: Any) -> list[Any]:
    """Devices of a platform: a driver without its hardware says so by an error."""
    try:
        return list(platform.get_devices())
    except cl.Error:
        return []


def _choose(platforms: list[Any], wanted: str | None, threads: int | None, family: Family | None) -> Any:
    import pyopencl as cl

    names = [str(p.name).strip() for p in platforms]
    if wanted is not None:
        platforms = [p for p in platforms if wanted.lower() in str(p.name).lower()]
    devices = [device for found in platforms for device in _devices(cl, found)]
    if not devices:
        here = f"platforms here: {', '.join(names)}" if names else "there is no OpenCL platform here"
        asked = f" with '{wanted}' in its name" if wanted else ""
        raise DeviceError(
            f"no OpenCL device{asked}; {here}; install PoCL: pip install 'pyopencl[pocl]', or "
            "apt install pocl-opencl-icd"
        )
    processors = [d for d in devices if d.type & cl.device_type.CPU]
    if family == "gpu" and len(processors) < len(devices):
        return next(d for d in devices if d not in processors)
    one_thread = (threads or usable_cores()) == 1
    processors.sort(key=lambda device: str(device.name).startswith(CALLING_THREAD) != one_thread)
    return (processors or devices)[0]
