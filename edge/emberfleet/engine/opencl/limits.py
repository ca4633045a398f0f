"""What an OpenCL device allows, and the family it computes in.

In the family `cpu` a group has one work-item and wide vectors, and groups are few; in `gpu` a group has
many work-items (lanes) with vectors of 4, and groups are many. docs/decisions/opencl.md says more.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from emberfleet.core.errors import ConfigError
from emberfleet.engine.opencl.pocl_cpu import processor_flags

FAMILY_VARIABLE = "EMBERFLEET_OPENCL_FAMILY"

Family: TypeAlias = Literal["cpu", "gpu"]
FAMILIES: tuple[Family, ...] = ("cpu", "gpu")

MOST_LANES = 64
"""Work-items of a group in the gpu family: two warps, one wavefront, four of v3d's batches of 16."""

GPU_VECTOR = 4
"""Floats of a vector in the gpu family."""

LANE_REGISTERS = 8
"""Vectors of 4 in a lane's tile at most: 32 registers, so that many lanes are under way at a time."""

MOST_PARTS = 64
"""Partial sums of one value at most, in the gpu family."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the device allows and what suits it."""

    compute_units: int
    vector_width: int
    """Floats per vector register: 16, 8 or 4."""
    vector_registers: int
    """Of the processor: 32 or 16."""
    max_allocation_bytes: int
    max_work_group: int
    local_bytes: int
    int64: bool = True
    """Whether kernels may use 64-bit integers: the embedded profile leaves them out."""


def wanted_family() -> Family | None:
    """The family that the environment asks for, if any.

    Raises:
        ConfigError: there is no such family.
    """
    text = os.environ.get(FAMILY_VARIABLE)
    if not text:
        return None
    for family in FAMILIES:
        if text == family:
            return family
    raise ConfigError(f"{FAMILY_VARIABLE} is '{text}', expected one of {', '.join(FAMILIES)}")


def family_and_lanes(device: Any) -> tuple[Family, int]:
    """What a `pyopencl.Device` would compute in when opened, and the work-items of its groups."""
    import pyopencl as cl

    family = wanted_family() or ("cpu" if device.type & cl.device_type.CPU else "gpu")
    return family, lanes_of(family, read_limits(device, None))


def lanes_of(family: Family, limits: Limits) -> int:
    """Work-items of a group: a power of two the device allows, with local memory for a vector of each."""
    if family == "cpu":
        return 1
    most = min(MOST_LANES, limits.max_work_group, limits.local_bytes // (4 * GPU_VECTOR))
    return 1 << max(most, 1).bit_length() - 1


def read_features(device: Any) -> frozenset[str]:
    """OpenCL extensions, and for a processor its flags as Linux names them."""
    import pyopencl as cl

    extensions = frozenset(str(device.extensions).split())
    if not device.type & cl.device_type.CPU:
        return extensions
    try:
        return extensions | processor_flags(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        return extensions


def read_limits(device: Any, cpu_name: str | None) -> Limits:
    """The limits of a `pyopencl.Device` in the family `cpu`; `cpu_name` as `pocl_cpu` named the processor."""
    if cpu_name is not None:
        # PoCL computed its preferred width for the processor it did not know.
        width = {"cascadelake": 16, "skylake-avx512": 16, "haswell": 8}.get(cpu_name, 4)
    else:
        width = min(max(int(device.native_vector_width_float), 4), 16)
    return Limits(
        compute_units=int(device.max_compute_units),
        vector_width=width,
        vector_registers=16 if width < 16 and platform.machine() in ("x86_64", "AMD64") else 32,
        max_allocation_bytes=int(device.max_mem_alloc_size),
        max_work_group=min(int(device.max_work_group_size), int(device.max_work_item_sizes[0])),
        local_bytes=int(device.local_mem_size),
        int64="EMBEDDED" not in str(device.profile) or "cles_khr_int64" in str(device.extensions).split(),
    )
