"""What is timed on a device: training and inference, of a bundle or a built-in net.

``python -m emberfleet.runtime.workloads JSON`` is the child of `runtime.measuring` for one `Workload`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from emberfleet.core.arrays import Float32, UInt8
from emberfleet.core.errors import ConfigError, ConversionError, DeviceError
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.runtime.measuring import (
    MeasuredProcess,
    Result,
    SkippedError,
    Work,
    check_falling,
    interleave,
    serve,
)
from emberfleet.train.trained import TrainedModel

if TYPE_CHECKING:
    from emberfleet.core.bundle import Bundle
    from emberfleet.core.graph import Graph
    from emberfleet.runtime.runtime import Runtime

TRAIN: Final = "train"
INFER: Final = "infer"
TRAINING_BACKENDS: Final = ("numpy", "opencl")
INFERENCE_BACKENDS: Final = ("numpy", "opencl", "litert")
BUILT_IN: Final = ("small", "sq32", "sq224")
RATE: Final = 1e-3
"""Of the timed steps: small, since the one batch they see is learnt by heart."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One thing to time.

    Attributes:
        kind: `TRAIN`, one step on one batch; or `INFER`, pixels to logits in int8.
        backend: Where.
        batch: Images at a time.
        threads: Most threads; None: as many as the backend finds.
        bundle: A signed bundle to time; empty: the built-in small net.
        trusted: Public keys, as text, one of which has signed it.
        fake_quantize: Train with the rounding of int8, as devices do.
    """

    kind: str
    backend: str
    batch: int
    threads: int | None = None
    bundle: str = ""
    trusted: tuple[str, ...] = ()
    fake_quantize: bool = False

    def start(self) -> MeasuredProcess:
        """A child process that gets ready to do it."""
        command = [sys.executable, "-m", "emberfleet.runtime.workloads", json.dumps(asdict(self))]
        name = f"{self.kind} on {self.backend}, batch {self.batch}"
        return MeasuredProcess(name, command, self.threads, tuple(Path(entry) for entry in sys.path if entry))

    @staticmethod
    def from_json(text: str) -> Workload:
        """Read what `start` wrote."""
        values = json.loads(text)
        return Workload(**{**values, "trusted": tuple(values["trusted"])})


def time_workloads(workloads: Sequence[Workload], samples: int, seconds: float) -> list[Result]:
    """Time workloads side by side, a process each: `samples` rounds of one sample of `seconds` each."""
    with ExitStack() as stack:
        processes = [stack.enter_context(workload.start()) for workload in workloads]
        return interleave(processes, samples, seconds)


def built_in_graph(name: str) -> Graph:
    """One of `BUILT_IN`: the demo's net for 28 x 28 grey pixels, SqueezeNet 1.1 for 32 x 32 and 224 x 224.

    Raises:
        ConfigError: there is none of this name.
    """
    from emberfleet.train.models import small_squeezenet, squeezenet_1_1, squeezenet_32

    match name:
        case "small":
            return small_squeezenet()
        case "sq32":
            return squeezenet_32()
        case "sq224":
            return squeezenet_1_1(classes=1000)
    raise ConfigError(f"there is no built-in network '{name}'; choose one of: {', '.join(BUILT_IN)}")


@cache
def built_in_model(name: str = "small") -> TrainedModel:
    """A built-in network, untrained, with ranges observed on noise."""
    return untrained_model(built_in_graph(name))


def untrained_model(graph: Graph) -> TrainedModel:
    """A network with initial weights and ranges observed on noise."""
    from emberfleet.train.calibration import calibrate
    from emberfleet.train.initialisation import initial_tensors

    height, width, channels = graph.input.shape
    preprocessing = Preprocessing(height, width, channels)
    tensors = initial_tensors(graph, 0, preprocessing)
    count = 16 if preprocessing.height < 64 else 1
    ranges = calibrate(graph, tensors, preprocessing.apply(noise(count, preprocessing)))
    return TrainedModel(
        graph, {**tensors, **ranges}, preprocessing, tuple(str(index) for index in range(graph.classes))
    )


def noise(count: int, preprocessing: Preprocessing) -> UInt8:
    """``(N, H, W, C)`` pixels without meaning, the same every time."""
    return np.random.default_rng(0).integers(0, 256, (count, *preprocessing.shape), np.uint8)


class TrainingWork:
    """Steps of one trainer on one batch; the loss has to fall."""

    def __init__(self, workload: Workload) -> None:
        from emberfleet.engine.backend import TrainingSpec
        from emberfleet.engine.optimizers import Adam
        from emberfleet.engine.selection import choose_backend

        model = _model(workload)
        graph, batch = model.graph, workload.batch
        engine = choose_backend(workload.backend, workload.threads)
        spec = TrainingSpec(batch, Adam(), fake_quantize=workload.fake_quantize)
        self._trainer = engine.trainer(graph, spec)
        self._trainer.load(model.tensors)
        self._x: Float32 = model.preprocessing.apply(noise(batch, model.preprocessing))
        places = (batch,) if graph.positions == 1 else (batch, graph.positions)
        self._labels = np.random.default_rng(1).integers(0, graph.classes, places)
        self._name = f"training on {workload.backend}"
        self._losses: list[float] = []
        self._parameters = sum(int(np.prod(shape)) for shape in graph.parameters.values())

    def call(self) -> None:
        """One step."""
        self._losses.append(self._trainer.step(self._x, self._labels, RATE))

    def facts(self) -> dict[str, Any]:
        """First and last loss.

        Raises:
            DeviceError: the loss did not fall.
        """
        first, last = self._losses[0], self._losses[-1]
        check_falling(self._name, first, last)
        return {"parameters": self._parameters, "first_loss": round(first, 4), "last_loss": round(last, 4)}


class InferenceWork:
    """Batches of pixels through `Runtime.logits`: preprocessing, int8 network and dequantized logits."""

    def __init__(self, workload: Workload) -> None:
        runtime = _runtime(workload)
        images = noise(workload.batch, runtime.preprocessing)
        self._run: Callable[[], Float32] = lambda: runtime.logits(images)

    def call(self) -> None:
        """One batch."""
        self._last = self._run()

    def facts(self) -> dict[str, Any]:
        """Nothing more; checks that the logits are numbers.

        Raises:
            DeviceError: they are not.
        """
        if not np.isfinite(self._last).all():
            raise DeviceError("inference: the logits are not finite")
        return {}


KINDS: Mapping[str, Callable[[Workload], Work]] = {TRAIN: TrainingWork, INFER: InferenceWork}


def prepare(workload: Workload) -> Work:
    """Make everything that the first call needs.

    Raises:
        SkippedError: this machine lacks the backend, or a library that the work needs.
    """
    try:
        return KINDS[workload.kind](workload)
    except (DeviceError, ConversionError, ImportError) as error:
        raise SkippedError(str(error)) from error


def _runtime(workload: Workload) -> Runtime:
    from emberfleet.core.signing import SigningKey
    from emberfleet.runtime.runtime import Runtime

    if workload.bundle:
        return Runtime(_open(workload), workload.backend, threads=workload.threads)
    from emberfleet.converters.bundle import build_bundle

    key = SigningKey.generate()
    data = build_bundle(_model(workload), 1, key)
    return Runtime.open(data, [key.verify_key], workload.backend, threads=workload.threads)


def _model(workload: Workload) -> TrainedModel:
    if workload.bundle:
        from emberfleet.converters.bundle import model_of

        return model_of(_open(workload))
    return built_in_model()


def _open(workload: Workload) -> Bundle:
    from emberfleet.core.bundle import Bundle
    from emberfleet.core.signing import VerifyKey

    return Bundle.open(workload.bundle, [VerifyKey.from_text(text) for text in workload.trusted])


if __name__ == "__main__":
    serve(lambda: prepare(Workload.from_json(sys.argv[1])))
