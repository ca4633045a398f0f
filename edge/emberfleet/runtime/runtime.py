"""A bundle that runs: opened and verified, then predicting, measured and retrained on this device.

Three backends run the same int8 network: ``litert`` (the .tflite on LiteRT or the TFLite runtime),
``opencl`` and ``numpy``. ``auto`` takes the first of litert, opencl, numpy that this machine has. In
floating point (``precision="float"``) there are opencl and numpy. Training runs on opencl or numpy;
where predictions go through litert, the training backend is the first of these two that works.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from emberfleet.core.arrays import Float32, UInt8
from emberfleet.core.errors import ConfigError, ShapeError
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.runtime.prediction import Prediction

if TYPE_CHECKING:
    from pathlib import Path

    from emberfleet.core.bundle import Bundle
    from emberfleet.core.integer import IntegerNetwork
    from emberfleet.core.signing import VerifyKey
    from emberfleet.engine.backend import Backend
    from emberfleet.runtime.retraining import MemoryBudget, RetrainPlan
    from emberfleet.train.data.dataset import Dataset
    from emberfleet.train.evaluation import Evaluation
    from emberfleet.train.trained import TrainedModel

BACKENDS = ("auto", "litert", "opencl", "numpy")
PRECISIONS = ("int8", "float")
BATCH = 64
"""Most images that are computed at a time."""


class _Predictor(Protocol):
    def run(self, x: Float32) -> Float32: ...


@dataclass(frozen=True, slots=True)
class RetrainResult:
    """How a retraining ended.

    Attributes:
        accepted: Whether the runtime now runs the new weights.
        before: Of the old weights, in int8, on the held-out samples.
        after: Of the new ones.
        model: The retrained model, accepted or not.
        samples: Images learnt from.
    """

    accepted: bool
    before: Evaluation
    after: Evaluation
    model: TrainedModel
    samples: int

    @property
    def reason(self) -> str:
        """Why, in one sentence."""
        figures = f"{self.before.accuracy:.1%} before, {self.after.accuracy:.1%} after, on held-out samples"
        return f"taken: {figures}" if self.accepted else f"not taken, the old weights stay: {figures}"


class Runtime:
    """One model on one device."""

    def __init__(
        self, bundle: Bundle, backend: str = "auto", precision: str = "int8", threads: int | None = None
    ) -> None:
        """Take a bundle that was opened, and so verified; `open` does both.

        Raises:
            ConfigError: an unknown backend or precision, or float on litert.
            DeviceError: a backend asked for by name that this machine does not have.
        """
        if backend not in BACKENDS or precision not in PRECISIONS:
            raise ConfigError(
                f"backend '{backend}' and precision '{precision}': expected one of {', '.join(BACKENDS)} "
                f"and one of {', '.join(PRECISIONS)}"
            )
        if precision == "float" and backend == "litert":
            raise ConfigError("the bundle's .tflite is int8: choose opencl or numpy for precision 'float'")
        self.bundle = bundle
        self.precision = precision
        self.classes: tuple[str, ...] = bundle.manifest.labels
        self.preprocessing: Preprocessing = bundle.manifest.preprocessing
        self._threads = threads
        self._model: TrainedModel | None = None
        self._retrained = False
        self._engine: Backend | None = None
        self._predictors: dict[int, _Predictor] = {}
        self.backend = self._find_backend(backend)

    @classmethod
    def open(
        cls,
        source: str | Path | bytes,
        trusted_keys: Collection[VerifyKey],
        backend: str = "auto",
        precision: str = "int8",
        threads: int | None = None,
    ) -> Runtime:
        """Verify a bundle and make it ready.

        Args:
            source: The file, or its bytes.
            trusted_keys: The signature of one of them is required.
            backend: ``auto``, ``litert``, ``opencl`` or ``numpy``.
            precision: ``int8`` or ``float``.
            threads: Most threads to use; None: as many as the backend finds.

        Raises:
            SignatureError: no trusted key has signed it.
            FormatError: damaged, or not a bundle.
        """
        from emberfleet.core.bundle import Bundle

        return cls(Bundle.open(source, trusted_keys), backend, precision, threads)

    @property
    def version(self) -> int:
        """The number of the model in the bundle."""
        return self.bundle.manifest.model_version

    @property
    def model(self) -> TrainedModel:
        """The float weights that run: the bundle's, or those of the last accepted retraining."""
        if self._model is None:
            from emberfleet.converters.bundle import model_of

            self._model = model_of(self.bundle)
        return self._model

    def logits(self, images: UInt8) -> Float32:
        """The network's output for ``(N, H, W, C)`` pixels: ``(N, K)`` or ``(N, P, K)``.

        Raises:
            ShapeError: not uint8 images of the model's size, or none.
        """
        if not len(images):
            raise ShapeError("no images to predict, expected at least one")
        size = 1 if len(images) == 1 else BATCH
        if size not in self._predictors:
            self._predictors[size] = self._make_predictor(size)
        predictor = self._predictors[size]
        pieces = [
            predictor.run(self.preprocessing.apply(images[start : start + size]))
            for start in range(0, len(images), size)
        ]
        return np.concatenate(pieces)

    def predict(self, images: UInt8) -> Prediction:
        """Classes and probabilities for ``(N, H, W, C)`` pixels."""
        return Prediction.of(self.logits(images), self.classes)

    def evaluate(self, data: Dataset) -> Evaluation:
        """How well the model does on labelled images."""
        from emberfleet.train.evaluation import evaluate

        return evaluate(self.logits(data.images), data.labels)

    def retrain(
        self,
        samples: Dataset,
        plan: RetrainPlan | None = None,
        held_out: Dataset | None = None,
        budget: MemoryBudget | None = None,
    ) -> RetrainResult:
        """Learn from samples; the new weights are taken unless they do worse on held-out ones.

        Samples of some of the model's classes leave its classes as they are. Where they have others,
        the last layer is exchanged first, and the comparison is with that new last layer untrained.

        Args:
            samples: Labelled images of the model's size.
            plan: What changes, and how; None: the head, with the defaults.
            held_out: Judges the result, in int8; None: ``plan.hold_out`` of the samples are kept apart.
            budget: Most memory that training may take; None: no limit.

        Raises:
            ConfigError: samples that do not fit, an unknown scope, too few samples, a memory limit that
                is too low, or divergence.
        """
        from emberfleet.runtime.retraining import (
            NO_BUDGET,
            RetrainPlan,
            among_classes,
            is_worse,
            learn,
            measure_int8,
            split_samples,
            with_classes,
            with_tensors,
        )

        plan = plan or RetrainPlan()
        if held_out is None:
            samples, held_out = split_samples(samples, plan)
        samples, held_out = (among_classes(data, self.model.classes) for data in (samples, held_out))
        start = with_classes(self.model, samples.classes, plan.seed)
        engine = self._training_engine()
        before = measure_int8(start, held_out, engine)
        model = with_tensors(start, learn(start, samples, plan, engine, budget or NO_BUDGET).tensors)
        after = measure_int8(model, held_out, engine)
        accepted = not is_worse(after, before)
        if accepted:
            self.use(model)
        return RetrainResult(accepted, before, after, model, len(samples))

    def use(self, model: TrainedModel) -> None:
        """Run these weights from now on, on this backend; the bundle stays as it was."""
        self._model, self._retrained = model, True
        self.classes, self.preprocessing = model.classes, model.preprocessing
        self._predictors.clear()

    def restore(self) -> None:
        """Go back to the weights of the bundle: what was learnt since is forgotten."""
        self._model, self._retrained = None, False
        self.classes, self.preprocessing = self.bundle.manifest.labels, self.bundle.manifest.preprocessing
        self._predictors.clear()

    def _find_backend(self, name: str) -> str:
        """The backend's name; an engine asked for is made at once, so that its absence is said here."""
        if name in ("auto", "litert") and self.precision == "int8":
            from emberfleet.core.errors import DeviceError
            from emberfleet.runtime.litert import find_interpreter

            try:
                find_interpreter()
            except DeviceError:
                if name == "litert":
                    raise
            else:
                return "litert"
        self._engine = self._choose_engine(name)
        return self._engine.name

    def _choose_engine(self, name: str) -> Backend:
        from emberfleet.engine.selection import choose_backend

        return choose_backend(name, self._threads)

    def _training_engine(self) -> Backend:
        if self._engine is None:
            self._engine = self._choose_engine("auto")
        return self._engine

    def _make_predictor(self, batch: int) -> _Predictor:
        if self.backend == "litert":
            from emberfleet.runtime.litert import LiteRtPredictor

            return LiteRtPredictor(self.tflite(), batch, self._threads)
        assert self._engine is not None
        if self.precision == "int8":
            return self._engine.integer_predictor(self.network(), batch)
        from emberfleet.core.graph import without_softmax

        return self._engine.predictor(without_softmax(self.model.graph), self.model.tensors, batch)

    def network(self) -> IntegerNetwork:
        """The int8 network that runs: the bundle's own, or that of the retrained weights."""
        if self._retrained:
            from emberfleet.core.lowering import quantize

            return quantize(self.model.graph, self.model.tensors)
        from emberfleet.converters.bundle import network_of

        return network_of(self.bundle)

    def tflite(self) -> bytes:
        """The int8 .tflite that runs: the bundle's own, or one written of the retrained weights."""
        if self._retrained:
            from emberfleet.converters.tflite.int8_writer import write_tflite_int8

            return write_tflite_int8(self.network())
        from emberfleet.core.bundle import TFLITE_PART

        return self.bundle.part(TFLITE_PART)
