"""Chooses the backend: OpenCL where it works, numpy everywhere."""

from __future__ import annotations

import logging

from emberfleet.core.errors import ConfigError, DeviceError
from emberfleet.engine.backend import Backend

NAMES = ("auto", "numpy", "opencl")

_log = logging.getLogger(__name__)


def choose_backend(name: str = "auto", threads: int | None = None) -> Backend:
    """The backend of this name, ready to use.

    Args:
        name: ``numpy``, ``opencl``, or ``auto``: OpenCL where it is usable, else numpy, with one line
            in the log that says why.
        threads: Most threads to use; None: EMBERFLEET_THREADS, else what the backend finds.

    Raises:
        DeviceError: OpenCL was asked for by name and cannot be used; says what to do.
        ConfigError: no such backend.
    """
    if name == "numpy":
        return _numpy(threads)
    if name == "opencl":
        return _opencl(threads)
    if name != "auto":
        raise ConfigError(f"backend is '{name}', expected one of {', '.join(NAMES)}")
    try:
        return _opencl(threads)
    except DeviceError as error:
        _log.warning("computing with numpy, which is slower than OpenCL: %s", error)
        return _numpy(threads)


def _numpy(threads: int | None) -> Backend:
    from emberfleet.engine.numpy_backend.backend import NumpyBackend

    return NumpyBackend(threads=threads)


def _opencl(threads: int | None) -> Backend:
    try:
        from emberfleet.engine.opencl.backend import OpenCLBackend

        return OpenCLBackend(threads=threads)
    except ImportError as error:
        raise DeviceError(
            f"OpenCL cannot be used: {error}; install the package's 'opencl' extra, or choose the numpy "
            "backend; 'emberfleet doctor' shows what this machine has"
        ) from error
    except DeviceError as error:
        if "doctor" in str(error):
            raise
        raise DeviceError(
            f"{error}; run 'emberfleet doctor' to see what to install, or choose the numpy backend"
        ) from error
