"""The OpenCL library for programs that are not Python, loaded into this process."""

from __future__ import annotations

from pathlib import Path

from emberfleet.engine.opencl.device import open_device
from emberfleet.engine.opencl.pocl_cpu import mend_unknown_cpu


def prepared_library() -> str:
    """The OpenCL library that pyopencl uses here, its PoCL able to build for this processor.

    Raises:
        DeviceError: there is no OpenCL device.
    """
    (device,) = open_device().context.devices
    devices = device.platform.get_devices()
    for each in devices:
        mend_unknown_cpu(each, str(device.platform.version), devices)
    maps = Path("/proc/self/maps").read_text().splitlines()
    return next(line.split(maxsplit=5)[5] for line in maps if "libOpenCL" in line)
