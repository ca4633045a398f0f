"""The OpenCL backend of `engine.backend.Backend`.

What trains and what predicts is imported where it is asked for: importing all would take a tenth of the time
to the first prediction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from emberfleet.core.arrays import Tensors
from emberfleet.core.errors import BuildError, in_one_line
from emberfleet.core.graph import Graph
from emberfleet.engine.opencl.device import OpenCLDevice, open_device
from emberfleet.engine.opencl.tuned_tiles import remember

if TYPE_CHECKING:
    from emberfleet.core.integer import IntegerNetwork
    from emberfleet.engine.backend import TrainingSpec
    from emberfleet.engine.opencl.integer import OpenCLIntegerPredictor
    from emberfleet.engine.opencl.predictor import OpenCLPredictor
    from emberfleet.engine.opencl.trainer import OpenCLTrainer

Made = TypeVar("Made")

_log = logging.getLogger(__name__)


class OpenCLBackend:
    """Computes on the first OpenCL CPU device, or on the given one.

    Where the driver does not build a program in the device's family, the other family is tried, with one
    line in the log, and kept from then on.
    """

    name = "opencl"

    def __init__(self, threads: int | None = None, device: OpenCLDevice | None = None) -> None:
        """Open the device.

        Raises:
            DeviceError: there is none; the text says what to do.
        """
        self.threads = threads
        self.device = device or open_device(threads=threads)

    def trainer(self, graph: Graph, spec: TrainingSpec) -> OpenCLTrainer:
        """See `engine.backend.Backend.trainer`."""
        from emberfleet.engine.opencl.trainer import OpenCLTrainer

        return self._made(lambda device: OpenCLTrainer(device, graph, spec))

    def predictor(
        self, graph: Graph, tensors: Tensors, batch: int, fake_quantize: bool = False
    ) -> OpenCLPredictor:
        """See `engine.backend.Backend.predictor`."""
        from emberfleet.engine.opencl.predictor import OpenCLPredictor

        return self._made(lambda device: OpenCLPredictor(device, graph, tensors, batch, fake_quantize))

    def integer_predictor(self, network: IntegerNetwork, batch: int) -> OpenCLIntegerPredictor:
        """See `engine.backend.Backend.integer_predictor`."""
        from emberfleet.engine.opencl.integer import OpenCLIntegerPredictor

        return self._made(lambda device: OpenCLIntegerPredictor(device, network, batch))

    def _made(self, make: Callable[[OpenCLDevice], Made]) -> Made:
        """What `make` gives in the device's family, else in the other one."""
        remember(self.device)
        try:
            return make(self.device)
        except BuildError as error:
            other = self.device.in_family("gpu" if self.device.family == "cpu" else "cpu")
            remember(other)
            try:
                made = make(other)
            except BuildError as second:
                raise BuildError(f"{error}; in family '{other.family}': {in_one_line(second)}") from error
            _log.warning(
                "'%s' computes in family '%s', because in '%s' %s",
                *(other.name, other.family, self.device.family, in_one_line(error)),
            )
            self.device = other
            return made
