"""What a compute backend offers: training, prediction, and prediction in int8.

The numpy backend is the reference; every other backend is held to it by parity tests. A backend
is chosen by `engine.selection.choose_backend`; code above the engine sees only these protocols.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from emberfleet.core.arrays import Array, Float32, Int8, Tensors
from emberfleet.core.errors import ConfigError
from emberfleet.core.graph import Graph
from emberfleet.engine.memory import TrainingMemory
from emberfleet.engine.optimizers import Optimizer

if TYPE_CHECKING:
    from emberfleet.core.integer import IntegerNetwork


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """How a trainer learns: fixed when it is made, so that all memory can be planned ahead."""

    batch: int
    optimizer: Optimizer
    trainable: frozenset[str] | None = None
    """Names of the parameters that learn; None: all. Backward stops where nothing upstream learns."""
    fake_quantize: bool = False
    batch_statistics: bool = True
    """Normalise by the batch and move the running values; False: use the running values, which stay."""
    label_smoothing: float = 0.0
    range_momentum: float = 0.95
    seed: int = 0
    """Of the dropout masks."""
    proximal: float = 0.0
    """Adds ``proximal * (w - w0)`` to the gradient of every learning parameter, `w0` being what was loaded
    last: it learns as if ``proximal / 2 * |w - w0|^2`` were part of the loss, which is told without it. Keeps
    a device near the fleet's model (FedProx, Li et al. 2020, arXiv:1812.06127, section 3.2)."""
    memory_limit_bytes: int | None = None
    """Most that values, gradients of values and scratch may take; None: no limit. To stay under it, values
    are computed twice instead of kept; the gradients keep every bit, the steps take longer."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"batch is {self.batch}, expected 1 or more")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ConfigError(f"label_smoothing is {self.label_smoothing}, expected 0 <= value < 1")
        if not 0.0 <= self.proximal < math.inf:
            raise ConfigError(f"proximal is {self.proximal}, expected 0 or more")
        if self.memory_limit_bytes is not None and self.memory_limit_bytes < 1:
            raise ConfigError(f"memory_limit_bytes is {self.memory_limit_bytes}, expected 1 or more")
        if not 0.0 <= self.range_momentum <= 1.0:
            raise ConfigError(f"range_momentum is {self.range_momentum}, expected 0 <= value <= 1")


class Trainer(Protocol):
    """One network being trained: it owns its parameters, optimizer slots and memory."""

    @property
    def memory(self) -> TrainingMemory:
        """How much values, their gradients and scratch take, and what keeping to a limit costs."""

    def load(self, tensors: Tensors) -> None:
        """Take parameters, running statistics and ranges (copied)."""

    def tensors(self) -> dict[str, Float32]:
        """Copies of parameters, running statistics and ranges."""

    def optimizer_state(self) -> dict[str, Float32]:
        """Copies of the slots, ``slot0/conv1/weight`` and so on, and ``step`` of shape (1,)."""

    def load_optimizer_state(self, state: Tensors) -> None:
        """Take back what `optimizer_state` gave: training goes on with the same bits."""

    def step(self, x: Float32, labels: Array, rate: float) -> float:
        """Learn from one full batch; returns the mean loss before the update.

        Args:
            x: ``(batch, H, W, C)``.
            labels: ``(batch,)`` or ``(batch, P)`` integers in [0, K).
            rate: Learning rate of this step.

        Raises:
            ShapeError: `x` or `labels` do not fit the graph, or a label is out of range.
        """

    def gradients(self, x: Float32, labels: Array) -> dict[str, Float32]:
        """Gradients of the trainable parameters; nothing is updated, statistics and ranges included."""


class Predictor(Protocol):
    """A network with fixed weights."""

    def run(self, x: Float32) -> Float32:
        """The graph's output for any number of images: ``(n, K)`` or ``(n, P, K)``."""


class IntegerPredictor(Protocol):
    """A network in int8."""

    def run(self, x: Float32) -> Float32:
        """Quantize the images, run, and return dequantized logits."""

    def run_integer(self, q: Int8) -> Int8:
        """From quantized images to quantized logits: the same bits on every backend."""


class Backend(Protocol):
    """A way to compute."""

    @property
    def name(self) -> str:
        """``numpy`` or ``opencl``."""

    @property
    def threads(self) -> int | None:
        """Most threads that were asked for; None: EMBERFLEET_THREADS, else what the backend finds."""

    def trainer(self, graph: Graph, spec: TrainingSpec) -> Trainer:
        """A trainer without weights: `Trainer.load` comes next."""

    def predictor(self, graph: Graph, tensors: Tensors, batch: int, fake_quantize: bool = False) -> Predictor:
        """A predictor that computes up to `batch` images at a time."""

    def integer_predictor(self, network: IntegerNetwork, batch: int) -> IntegerPredictor:
        """A predictor in int8 that computes up to `batch` images at a time."""
