"""The training loop: epochs in floating point, then epochs with fake quantization.

One run is a value of `TrainConfig`, a seed and a data set; on one backend the same three give the
same bits, also when the run was stopped in between and goes on from a checkpoint. The loop prints
nothing: observers see what happens.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from emberfleet.core.arrays import Float32, Int64, Tensors
from emberfleet.core.errors import ConfigError
from emberfleet.core.graph import Graph
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.engine.backend import Backend, Trainer, TrainingSpec
from emberfleet.engine.memory import TrainingMemory
from emberfleet.engine.optimizers import AdamW, Optimizer
from emberfleet.train.calibration import calibrate
from emberfleet.train.checkpoints import TrainState, load_checkpoint, save_checkpoint
from emberfleet.train.data.augmentation import Augmentation
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.data.loader import Batches
from emberfleet.train.evaluation import Evaluation, evaluate
from emberfleet.train.history import EpochRecord
from emberfleet.train.schedules import Schedule

PREDICT_BATCH = 256

_Batch: TypeAlias = tuple[Float32, Int64]


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How a network is trained.

    Attributes:
        epochs: In floating point.
        quantize_epochs: With fake quantization, afterwards; 0 leaves the network in floating point.
        batch: Images per step.
        optimizer: With its constants; the rate comes from the schedule.
        rate: Highest learning rate of the floating-point phase.
        quantize_rate: The same of the quantized phase; None: a tenth of `rate`.
        schedule: ``cosine``, ``constant`` or ``step`` (a tenth after each third of the run).
        warmup_epochs: Epochs, or a part of one, over which the rate rises.
        augmentation: Random changes of the training images.
        balance: Draw all classes equally often.
        label_smoothing: Share of each label spread over all classes.
        patience: Epochs without a better validation after which a phase ends; 0: never.
        calibration_images: Training images over which ranges are observed before quantization.
        seed: Of the order of batches, augmentation and dropout.
    """

    epochs: int = 12
    quantize_epochs: int = 3
    batch: int = 64
    optimizer: Optimizer = AdamW()  # noqa: RUF009  (frozen)
    rate: float = 3e-3
    quantize_rate: float | None = None
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    warmup_epochs: float = 0.5
    augmentation: Augmentation = Augmentation()  # noqa: RUF009  (frozen)
    balance: bool = False
    label_smoothing: float = 0.0
    patience: int = 0
    calibration_images: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.quantize_epochs < 0 or self.epochs + self.quantize_epochs < 1:
            raise ConfigError(
                f"epochs are {self.epochs} + {self.quantize_epochs} quantized, expected 1 or more"
            )
        for name in ("rate", "quantize_rate"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value}, expected a number above 0")
        for name in ("warmup_epochs", "patience", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if self.calibration_images < 1:
            raise ConfigError(f"calibration_images is {self.calibration_images}, expected 1 or more")

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values."""
        document = {name: getattr(self, name) for name in self.__slots__}
        document["optimizer"] = repr(self.optimizer)
        document["augmentation"] = asdict(self.augmentation)
        document["augmentation"]["erase_area"] = list(self.augmentation.erase_area)
        return document


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What `fit` gives back.

    Attributes:
        tensors: Of the best epoch of the last phase (of the last epoch where nothing was held out).
        history: One record per epoch, of this run and of those it resumed.
        stopped_early: Whether the last phase ended by patience.
    """

    tensors: Mapping[str, Float32]
    history: tuple[EpochRecord, ...]
    stopped_early: bool


class Observer:
    """Sees a run; every method may be left as it is. An exception it raises ends the run."""

    def on_phase(self, name: str, epochs_done: int, epochs: int, steps_per_epoch: int) -> None:
        """A phase (``float`` or ``quantized``) begins or goes on."""

    def on_memory(self, memory: TrainingMemory) -> None:
        """A phase's trainer is made: what its values take, and what is computed twice to fit a limit."""

    def on_step(self, step: int, loss: float, rate: float) -> None:
        """A step of the phase was taken; `step` counts from 0."""

    def on_epoch(self, record: EpochRecord) -> None:
        """An epoch ended; its checkpoint is written."""


@dataclass(frozen=True, slots=True)
class _Phase:
    name: str
    epochs: int
    rate: float
    fake_quantize: bool


def fit(
    graph: Graph,
    tensors: Tensors,
    preprocessing: Preprocessing,
    train: Dataset,
    validation: Dataset | None,
    config: TrainConfig,
    backend: Backend,
    observers: Sequence[Observer] = (),
    checkpoints: Path | None = None,
    resume: bool = False,
    clock: Callable[[], float] = time.perf_counter,
    memory_limit_bytes: int | None = None,
) -> TrainResult:
    """Train a network.

    Args:
        graph: What to train; its classes and positions must fit the data.
        tensors: First values, from `initialisation` or an earlier run; not changed.
        preprocessing: From pixels to what the network reads.
        train: Images to learn from.
        validation: Images held out: they choose the best epoch and, with patience, the end.
        config: How.
        backend: Where it is computed.
        observers: See what happens, in this order.
        checkpoints: Folder that takes a checkpoint after each epoch; None writes none.
        resume: Go on from the folder's checkpoint where there is one.
        clock: Seconds, for the history.
        memory_limit_bytes: Most memory for values (`TrainingSpec.memory_limit_bytes`); changes no bit.

    Raises:
        ConfigError: data that does not fit the network, a checkpoint of another run, a memory limit
            too low, or a loss that is no longer finite.
    """
    for part in (train, validation):
        if part is not None:
            check_data(graph, part)
    identity = {"config": config.to_json(), "backend": backend.name}
    identity |= _digests(graph, tensors, train, validation)
    saved = load_checkpoint(checkpoints, identity) if resume and checkpoints is not None else None
    state = saved or TrainState(dict(tensors))
    batches = Batches(train, preprocessing, config.batch, config.augmentation, config.seed, config.balance)
    run = _Run(
        graph,
        preprocessing,
        batches,
        validation,
        config,
        backend,
        tuple(observers),
        clock,
        memory_limit_bytes,
    )
    phases = _phases(config)
    for index in range(state.phase, len(phases)):
        phase = phases[index]
        if index > state.phase:
            state = TrainState(state.best, phase=index, history=state.history)
        trainer = run.trainer(phase, state)
        for observer in observers:
            observer.on_phase(phase.name, state.phase_epochs, phase.epochs, batches.steps_per_epoch)
            observer.on_memory(trainer.memory)
        while state.phase_epochs < phase.epochs and not _out_of_patience(state, config):
            run.train_epoch(trainer, phase, state)
            if checkpoints is not None:
                save_checkpoint(checkpoints, state, identity)
            for observer in observers:
                observer.on_epoch(state.history[-1])
    return TrainResult(state.best, tuple(state.history), state.phase_epochs < phases[-1].epochs)


def predict(
    backend: Backend,
    graph: Graph,
    tensors: Tensors,
    preprocessing: Preprocessing,
    data: Dataset,
    fake_quantize: bool = False,
) -> Float32:
    """The logits of every image of a data set: ``(N, K)`` or ``(N, P, K)``."""
    predictor = backend.predictor(graph, tensors, PREDICT_BATCH, fake_quantize)
    pieces = [
        predictor.run(preprocessing.apply(data.images[start : start + PREDICT_BATCH]))
        for start in range(0, len(data), PREDICT_BATCH)
    ]
    return np.concatenate(pieces)


def check_data(graph: Graph, data: Dataset) -> None:
    """Raise `ConfigError` unless the network has the data set's size, classes and positions."""
    size, positions = tuple(data.images.shape[1:]), data.positions or 1
    expected = (graph.input.shape, graph.positions, graph.classes)
    if (size, positions, len(data.classes)) != expected:
        raise ConfigError(
            f"the data has images of {size}, {positions} positions and {len(data.classes)} classes, "
            f"the network takes {expected[0]}, {expected[1]} and {expected[2]}"
        )


def _phases(config: TrainConfig) -> list[_Phase]:
    quantize_rate = config.quantize_rate or config.rate / 10
    phases = [
        _Phase("float", config.epochs, config.rate, False),
        _Phase("quantized", config.quantize_epochs, quantize_rate, True),
    ]
    return [phase for phase in phases if phase.epochs]


@dataclass(frozen=True, slots=True)
class _Run:
    """What stays the same through all epochs."""

    graph: Graph
    preprocessing: Preprocessing
    batches: Batches
    validation: Dataset | None
    config: TrainConfig
    backend: Backend
    observers: tuple[Observer, ...]
    clock: Callable[[], float]
    memory_limit_bytes: int | None

    def trainer(self, phase: _Phase, state: TrainState) -> Trainer:
        """A trainer that stands where `state` does; ranges are observed where a quantized phase begins."""
        if phase.fake_quantize and not state.phase_epochs:
            chosen = np.sort(self.batches.order(0)[: self.config.calibration_images])
            images = self.preprocessing.apply(self.batches.dataset.images[chosen])
            ranges = calibrate(self.graph, state.tensors, images, threads=self.backend.threads)
            state.tensors = {**state.tensors, **ranges}
        spec = TrainingSpec(
            self.config.batch,
            self.config.optimizer,
            fake_quantize=phase.fake_quantize,
            label_smoothing=self.config.label_smoothing,
            seed=self.config.seed + state.phase,
            memory_limit_bytes=self.memory_limit_bytes,
        )
        trainer = self.backend.trainer(self.graph, spec)
        trainer.load(state.tensors)
        if state.optimizer:
            trainer.load_optimizer_state(state.optimizer)
        return trainer

    def train_epoch(self, trainer: Trainer, phase: _Phase, state: TrainState) -> None:
        """Train one epoch, validate, and bring `state` up to date."""
        begin = self.clock()
        number = len(state.history)
        per_epoch = self.batches.steps_per_epoch
        schedule = _schedule(phase, per_epoch, self.config)
        first = state.phase_epochs * per_epoch
        total = 0.0
        for step, (x, labels) in enumerate(_one_ahead(self.batches.epoch(number)), first):
            rate = schedule.rate(step)
            loss = trainer.step(x, labels, rate)
            if not math.isfinite(loss):
                raise ConfigError(
                    f"training diverged: the loss is {loss} in epoch {number + 1}, step {step - first + 1}; "
                    f"choose a lower rate than {phase.rate:g}"
                )
            total += loss
            for observer in self.observers:
                observer.on_step(step, loss, rate)
        state.phase_epochs += 1
        state.tensors, state.optimizer = trainer.tensors(), trainer.optimizer_state()
        found = self._validate(phase, state.tensors)
        _keep_best(state, found)
        state.history.append(
            EpochRecord(
                epoch=number + 1,
                phase=phase.name,
                rate=schedule.rate(first + per_epoch - 1),
                loss=total / per_epoch,
                validation_loss=found.loss if found else None,
                validation_accuracy=found.accuracy if found else None,
                seconds=self.clock() - begin,
            )
        )

    def _validate(self, phase: _Phase, tensors: Tensors) -> Evaluation | None:
        if self.validation is None:
            return None
        logits = predict(
            self.backend, self.graph, tensors, self.preprocessing, self.validation, phase.fake_quantize
        )
        return evaluate(logits, self.validation.labels)


def _one_ahead(batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """The same batches; the next one is made by another thread while this one is learnt from."""
    with ThreadPoolExecutor(1, "batches") as pool:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch


def _schedule(phase: _Phase, per_epoch: int, config: TrainConfig) -> Schedule:
    steps = phase.epochs * per_epoch
    warmup = min(round(config.warmup_epochs * per_epoch), steps)
    # The quantized phase goes on from trained weights at a low rate: it needs no warm-up.
    return Schedule(
        phase.rate, steps, 0 if phase.fake_quantize else warmup, config.schedule, every=max(1, steps // 3)
    )


def _keep_best(state: TrainState, found: Evaluation | None) -> None:
    score = (found.accuracy, -found.loss) if found else None
    if score is None or state.best_score is None or score > state.best_score:
        state.best, state.best_score, state.stale_epochs = state.tensors, score, 0
    else:
        state.stale_epochs += 1


def _out_of_patience(state: TrainState, config: TrainConfig) -> bool:
    return 0 < config.patience <= state.stale_epochs


def _digests(graph: Graph, tensors: Tensors, train: Dataset, validation: Dataset | None) -> dict[str, Any]:
    """What must be the same when a run goes on: digests of network, first weights and data."""

    def digest(*pieces: bytes) -> str:
        return hashlib.sha256(b"".join(hashlib.sha256(piece).digest() for piece in pieces)).hexdigest()

    def of_data(data: Dataset | None) -> str:
        if data is None:
            return ""
        return digest(*(np.ascontiguousarray(a).tobytes() for a in (data.images, data.labels)))

    return {
        "graph": digest(graph.to_json().encode()),
        "first weights": digest(*(name.encode() + tensors[name].tobytes() for name in sorted(tensors))),
        "training data": of_data(train),
        "validation data": of_data(validation),
    }
