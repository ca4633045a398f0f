"""Forms of the int8 dot product, and which of them a device can do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import IntEnum

from emberfleet.core.errors import DeviceError
from emberfleet.engine.opencl.device import OpenCLDevice

EXACT_FLOAT32 = 1 << 24
"""Integers below this are exact in float32."""

UNSIGNED_OFFSET = 128
"""What is added to a code to store it as an unsigned byte."""


class Dot(IntEnum):
    """Forms of the int8 dot product, the number being the kernel's DOT option."""

    PLAIN = 0
    FLOAT = 1
    PACKED = 2
    """Four channels at a time in plain C: slow anywhere, it shows that the others mean the same."""
    VPDPBUSD = 3
    SDOT = 4
    KHR = 5

    @property
    def grain(self) -> int:
        """Channels that are multiplied and added at a time."""
        return 1 if self in (Dot.PLAIN, Dot.FLOAT) else 4

    @property
    def offset(self) -> int:
        """What is added to the codes that it reads."""
        return UNSIGNED_OFFSET if self is Dot.VPDPBUSD else 0


def device_forms(device: OpenCLDevice) -> Iterator[Dot]:
    """The forms that this device can do, the fastest first."""
    features, vector = device.features, device.limits.vector_width
    # A mended processor may be built for with fewer instructions than it has.
    if device.cpu_name in (None, "cascadelake"):
        wide = {"avx512_vnni"} <= features
        narrow = {"avx512_vnni", "avx512vl"} <= features or "avx_vnni" in features
        if (vector == 16 and wide) or (vector == 8 and narrow):
            yield Dot.VPDPBUSD
    # A 32-bit process on a 64-bit kernel sees the flag and cannot use it.
    if vector == 4 and "asimddp" in features and sys.maxsize > 1 << 32:
        yield Dot.SDOT
    if "cl_khr_integer_dot_product" in features:
        yield Dot.KHR
    yield from (Dot.FLOAT, Dot.PLAIN, Dot.PACKED)


def choose_form(device: OpenCLDevice, wanted: Dot | None) -> Dot:
    """The form asked for, or the fastest.

    Raises:
        DeviceError: the device lacks the instructions of the one asked for.
    """
    forms = list(device_forms(device))
    if wanted is None:
        return forms[0]
    if wanted not in forms:
        raise DeviceError(f"'{device.name}' has no {wanted.name.lower()} dot product")
    return wanted


def exact_form(form: Dot, length: int) -> Dot:
    """The form for a sum of `length` products: float sums must stay integers that float32 holds."""
    if form is Dot.FLOAT and length * 128 * 127 >= EXACT_FLOAT32:
        return Dot.PLAIN
    return form
