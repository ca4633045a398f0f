"""The OpenCL backend of `engine.backend.Backend`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emberfleet.core.arrays import Tensors
from emberfleet.core.graph import Graph
from emberfleet.engine.backend import TrainingSpec
from emberfleet.engine.opencl.device import OpenCLDevice, open_device
from emberfleet.engine.opencl.predictor import OpenCLPredictor
from emberfleet.engine.opencl.trainer import OpenCLTrainer

if TYPE_CHECKING:
    from emberfleet.core.integer import IntegerNetwork
    from emberfleet.engine.opencl.integer import OpenCLIntegerPredictor


class OpenCLBackend:
    """Computes on the first OpenCL CPU device, or on the given one."""

    name = "opencl"

    def __init__(self, threads: int | None = None, device: OpenCLDevice | None = None) -> None:
        """Open the device.

        Raises:
            DeviceError: there is none; the text says what to do.
        """
        self.device = device or open_device(threads=threads)

    def trainer(self, graph: Graph, spec: TrainingSpec) -> OpenCLTrainer:
        """See `engine.backend.Backend.trainer`."""
        return OpenCLTrainer(self.device, graph, spec)

    def predictor(
        self, graph: Graph, tensors: Tensors, batch: int, fake_quantize: bool = False
    ) -> OpenCLPredictor:
        """See `engine.backend.Backend.predictor`."""
        return OpenCLPredictor(self.device, graph, tensors, batch, fake_quantize)

    def integer_predictor(self, network: IntegerNetwork, batch: int) -> OpenCLIntegerPredictor:
        """See `engine.backend.Backend.integer_predictor`."""
        from emberfleet.engine.opencl.integer import OpenCLIntegerPredictor

        return OpenCLIntegerPredictor(self.device, network, batch)
