"""Chooses the backend: OpenCL where it works, numpy everywhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from emberfleet.core.arrays import Tensors
from emberfleet.core.errors import BuildError, ConfigError, DeviceError, in_one_line
from emberfleet.core.graph import Graph
from emberfleet.engine.backend import Backend, IntegerPredictor, Predictor, Trainer, TrainingSpec

if TYPE_CHECKING:
    from emberfleet.core.integer import IntegerNetwork

Made = TypeVar("Made")

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
        return BackendWithFallback(_opencl(threads), lambda: _numpy(threads))
    except DeviceError as error:
        _say_why(error)
        return _numpy(threads)


class BackendWithFallback:
    """A backend, and another one for what the first fails to prepare, with one line in the log each time.

    A trainer or predictor for which memory is short, or that the first has no kernels for, is made by the
    second. A driver that refuses to build is not asked again.
    """

    def __init__(self, first: Backend, second: Callable[[], Backend]) -> None:
        self._first: Backend = first
        self._second = second
        self._last = first

    @property
    def name(self) -> str:
        """Of the backend that made the last trainer or predictor, the first backend's before there is one."""
        return self._last.name

    @property
    def threads(self) -> int | None:
        """Most threads that were asked for."""
        return self._first.threads

    def trainer(self, graph: Graph, spec: TrainingSpec) -> Trainer:
        """See `engine.backend.Backend.trainer`."""
        return self._made(lambda backend: backend.trainer(graph, spec))

    def predictor(self, graph: Graph, tensors: Tensors, batch: int, fake_quantize: bool = False) -> Predictor:
        """See `engine.backend.Backend.predictor`."""
        return self._made(lambda backend: backend.predictor(graph, tensors, batch, fake_quantize))

    def integer_predictor(self, network: IntegerNetwork, batch: int) -> IntegerPredictor:
        """See `engine.backend.Backend.integer_predictor`."""
        return self._made(lambda backend: backend.integer_predictor(network, batch))

    def _made(self, make: Callable[[Backend], Made]) -> Made:
        backend = self._first
        try:
            made = make(backend)
        except DeviceError as error:
            backend = self._second()
            made = make(backend)
            _say_why(error)
            if isinstance(error, BuildError):
                self._first = backend
        self._last = backend
        return made


def _say_why(error: DeviceError) -> None:
    _log.warning("computing with numpy, which is slower than OpenCL: %s", in_one_line(error))


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
