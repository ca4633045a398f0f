"""The numpy backend: the reference for every other, and the fallback where none other runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from emberfleet.core.arrays import Tensors
from emberfleet.core.errors import ConfigError
from emberfleet.core.graph import Graph
from emberfleet.engine.backend import IntegerPredictor, Predictor, Trainer, TrainingSpec
from emberfleet.engine.numpy_backend.predictor import NumpyPredictor
from emberfleet.engine.numpy_backend.program import HANDLED
from emberfleet.engine.numpy_backend.threads import Threads
from emberfleet.engine.numpy_backend.trainer import NumpyTrainer

if TYPE_CHECKING:
    from emberfleet.core.integer import IntegerNetwork


class NumpyBackend:
    """See `engine.backend.Backend`.

    Args:
        dtype: float32, or float64 for checks of gradients.
        threads: Most threads BLAS may use; None: EMBERFLEET_THREADS, else no bound.
    """

    handled: ClassVar[frozenset[str]] = HANDLED
    """Node kinds that it computes."""

    def __init__(self, dtype: DTypeLike = np.float32, threads: int | None = None) -> None:
        self.name = "numpy"
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise ConfigError(f"dtype is {self.dtype}, expected float32 or float64")
        self.threads = threads
        self._threads = Threads(threads)

    def trainer(self, graph: Graph, spec: TrainingSpec) -> Trainer:
        """See `engine.backend.Backend.trainer`."""
        return NumpyTrainer(graph, spec, self.dtype, self._threads)

    def predictor(self, graph: Graph, tensors: Tensors, batch: int, fake_quantize: bool = False) -> Predictor:
        """See `engine.backend.Backend.predictor`."""
        return NumpyPredictor(graph, tensors, batch, self.dtype, self._threads, fake_quantize)

    def integer_predictor(self, network: IntegerNetwork, batch: int) -> IntegerPredictor:
        """See `engine.backend.Backend.integer_predictor`."""
        from emberfleet.engine.numpy_backend.integer import NumpyIntegerPredictor

        return NumpyIntegerPredictor(network, batch, self._threads)
