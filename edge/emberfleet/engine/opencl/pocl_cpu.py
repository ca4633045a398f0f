"""Name the processor for a PoCL that is too old to know it.

PoCL 3.x from PyPI carries LLVM 14, which asks the processor for its model, does not know those
made after 2022, calls them "generic" and then refuses every build with ``unknown target CPU
'generic'``. The name is one C string pointer in the driver's device record, right after the
pointer to the target triple. `mend_unknown_cpu` finds that pair, and only when everything is
exactly as expected lets the second pointer point to a name LLVM 14 knows and whose instructions
this processor has. Nothing else of the record is touched. docs/decisions/opencl.md says why.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import struct
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Protocol

RECORD_BYTES = 4096
"""How far into the device record the pair of pointers is looked for (PoCL 3.0: 632 and 640)."""

POINTER_BYTES = 8
TRIPLE = re.compile(rb"x86_64-[a-z0-9_]+-linux[a-z0-9_-]*\0")
UNKNOWN = b"generic\0"

# From the most to the least able: a name LLVM 14 knows, and what the processor must report. Flags that
# hypervisors hide and that LLVM never picks by itself for a kernel (adx, clwb, aes ...) are left out.
_AVX2 = frozenset(["avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe"])
_AVX512 = _AVX2 | frozenset(["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"])
CPU_NAMES: tuple[tuple[str, frozenset[str]], ...] = (
    ("cascadelake", _AVX512 | {"avx512_vnni"}),
    ("skylake-avx512", _AVX512),
    ("haswell", _AVX2),
    ("nehalem", frozenset(["ssse3", "sse4_1", "sse4_2", "popcnt", "cx16"])),
)

_kept_alive: list[ctypes.Array[ctypes.c_char]] = []
_mended: dict[int, str] = {}


class PoclDevice(Protocol):
    """What is needed of a `pyopencl.Device`."""

    @property
    def int_ptr(self) -> int: ...
    @property
    def version(self) -> str: ...


def llvm_cpu_name(flags: Iterable[str]) -> str | None:
    """The most able processor name LLVM 14 knows whose instructions all stand in `flags`."""
    have = frozenset(flags)
    for name, needed in CPU_NAMES:
        if needed <= have:
            return name
    return None


def processor_flags(cpuinfo: str) -> frozenset[str]:
    """The feature flags of the first processor in the text of ``/proc/cpuinfo`` (Arm: Features)."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()


def find_name_field(record: bytes, read: Callable[[int, int], bytes]) -> int | None:
    """Offset of the pointer to ``"generic"`` that follows the pointer to the target triple.

    Args:
        record: The first bytes of the driver's device record.
        read: ``read(address, size)`` gives the bytes there, fewer or none where memory ends.

    Returns:
        The offset, or None unless exactly one such pair is found.
    """
    words = struct.unpack_from(f"<{len(record) // POINTER_BYTES}Q", record)
    found = [
        (index + 1) * POINTER_BYTES
        for index, (first, second) in enumerate(pairwise(words))
        if _is_address(first)
        and _is_address(second)
        and TRIPLE.match(read(first, 64))
        and read(second, len(UNKNOWN)) == UNKNOWN
    ]
    return found[0] if len(found) == 1 else None


def mend_unknown_cpu(
    device: PoclDevice, platform_version: str, neighbours: Iterable[PoclDevice] = ()
) -> str | None:
    """Give a PoCL 3.x device that calls its processor "generic" a name its LLVM can build for.

    Args:
        device: The device.
        platform_version: What its platform calls itself.
        neighbours: The platform's devices: their records may lie directly behind this one's.

    Returns:
        The name now in use, or None where nothing was changed: another driver, a processor that
        is known, a record that does not look as expected, or a system without ``/proc``.
    """
    if not re.search(r"\bPoCL 3\.", platform_version) or not device.version.endswith("-generic"):
        return None
    address = device.int_ptr
    if address in _mended:
        return _mended[address]
    if platform.machine() != "x86_64" or struct.calcsize("P") != POINTER_BYTES:
        return None
    try:
        name = llvm_cpu_name(processor_flags(Path("/proc/cpuinfo").read_text()))
        memory = os.open("/proc/self/mem", os.O_RDONLY)
    except OSError:
        return None
    if name is None:
        os.close(memory)
        return None
    try:
        behind = [other.int_ptr - address for other in neighbours if other.int_ptr > address]
        record = _read(memory, address, min([RECORD_BYTES, *behind]))
        offset = find_name_field(record, lambda at, size: _read(memory, at, size))
    finally:
        os.close(memory)
    if offset is None:
        return None
    text = ctypes.create_string_buffer(name.encode())
    _kept_alive.append(text)
    ctypes.c_uint64.from_address(address + offset).value = ctypes.addressof(text)
    _mended[address] = name
    return name


def _is_address(word: int) -> bool:
    return 4096 < word < 1 << 47


def _read(memory: int, address: int, size: int) -> bytes:
    """Bytes of this process by address, through the kernel, so that a bad address is no crash."""
    try:
        return os.pread(memory, size, address)
    except (OSError, OverflowError):
        return b""
