"""Retraining: a few epochs on a device's own samples, from the weights it has.

Only the tensors of the plan's scope change; the rest keeps every bit. The network is fake-quantized
while it learns, so what was measured before and after is what the device runs in int8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from emberfleet.core.arrays import Float32, Tensors
from emberfleet.core.errors import ConfigError
from emberfleet.core.graph import Graph
from emberfleet.core.lowering import quantize
from emberfleet.core.nodes import Conv2D, Reshape
from emberfleet.engine.backend import Backend, TrainingSpec
from emberfleet.engine.memory import TrainingMemory
from emberfleet.engine.optimizers import Optimizer
from emberfleet.train.calibration.pools import spread_pools_of
from emberfleet.train.data.augmentation import Augmentation
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.data.loader import Batches
from emberfleet.train.evaluation import Evaluation, evaluate
from emberfleet.train.loop import PREDICT_BATCH, check_data
from emberfleet.train.plans import FULL, scope_named
from emberfleet.train.recipes import OPTIMIZERS
from emberfleet.train.schedules import Schedule
from emberfleet.train.trained import TrainedModel

MAX_EPOCHS = 10_000
MAX_BATCH = 4096
Setting = str | int | float | bool


@dataclass(frozen=True, slots=True)
class RetrainPlan:
    """What a retraining changes, and how.

    Attributes:
        scope: ``head``, ``last-2-fires`` and the like, or ``full``.
        epochs: Passes over the samples.
        batch: Images per step.
        rate: Learning rate at the start.
        optimizer: Name in `train.recipes.OPTIMIZERS`.
        schedule: ``cosine`` or ``constant``.
        batch_statistics: Let batch norm go by the batch and move its running values; None: where the
            scope is ``full``. Without it the running values stay, which suits a few samples.
        fake_quantize: Learn with the rounding of int8.
        label_smoothing: Share of each label spread over all classes.
        proximal: Pulls the weights back to where they began: `TrainingSpec.proximal`.
        shift: Largest random translation, in pixels.
        rotation_degrees: Largest random turn to either side.
        scale: Random sizes between ``1 / (1 + scale)`` and ``1 + scale``.
        flip: Mirror half of the images left to right.
        hold_out: Share of the samples kept apart to judge the result, where none are given.
        seed: Of the order, the augmentation, dropout and the split.
    """

    scope: str = "head"
    epochs: int = 5
    batch: int = 16
    rate: float = 0.01
    optimizer: str = "sgd"
    schedule: str = "cosine"
    batch_statistics: bool | None = None
    fake_quantize: bool = True
    label_smoothing: float = 0.0
    proximal: float = 0.0
    shift: float = 0.0
    rotation_degrees: float = 0.0
    scale: float = 0.0
    flip: bool = False
    hold_out: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        def check(fine: bool, name: str, expected: str) -> None:
            if not fine:
                raise ConfigError(f"retraining: {name} is {getattr(self, name)!r}, expected {expected}")

        check(1 <= self.epochs <= MAX_EPOCHS, "epochs", f"1 to {MAX_EPOCHS}")
        check(1 <= self.batch <= MAX_BATCH, "batch", f"1 to {MAX_BATCH}")
        check(math.isfinite(self.rate) and self.rate > 0, "rate", "a number above 0")
        check(self.optimizer in OPTIMIZERS, "optimizer", f"one of {', '.join(OPTIMIZERS)}")
        check(self.schedule in ("cosine", "constant"), "schedule", "cosine or constant")
        check(0.0 <= self.proximal < math.inf, "proximal", "0 or more")
        check(0.0 < self.hold_out < 1.0, "hold_out", "above 0 and below 1")
        check(self.seed >= 0, "seed", "0 or more")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Setting]) -> RetrainPlan:
        """A plan from plain values, as a server sends them; what is left out keeps its default.

        Raises:
            ConfigError: an unknown name, or a value of the wrong type or out of range.
        """
        kinds = {item.name: str(item.type) for item in fields(cls)}
        values: dict[str, Setting] = {}
        for name, value in settings.items():
            kind = kinds.get(name)
            if kind is None:
                raise ConfigError(f"retraining: '{name}' is no setting; known: {', '.join(kinds)}")
            if kind == "float" and type(value) is int:
                value = float(value)
            if type(value).__name__ != kind.partition(" ")[0]:
                raise ConfigError(f"retraining: {name} is {value!r}, expected {kind.partition(' ')[0]}")
            values[name] = value
        return cls(**values)  # type: ignore[arg-type]

    @property
    def augmentation(self) -> Augmentation:
        """Random changes of the samples."""
        return Augmentation(
            shift=self.shift, rotation_degrees=self.rotation_degrees, scale=self.scale, flip=self.flip
        )

    def training_spec(
        self, trainable: tuple[str, ...], optimizer: Optimizer, memory_limit_bytes: int | None = None
    ) -> TrainingSpec:
        """What the engine's trainer is told."""
        by_batch = self.scope == FULL if self.batch_statistics is None else self.batch_statistics
        return TrainingSpec(
            batch=self.batch,
            optimizer=optimizer,
            trainable=frozenset(trainable),
            fake_quantize=self.fake_quantize,
            batch_statistics=by_batch,
            label_smoothing=self.label_smoothing,
            proximal=self.proximal,
            seed=self.seed,
            memory_limit_bytes=memory_limit_bytes,
        )


def _silent(memory: TrainingMemory) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """How much memory this device gives a retraining; the server's plan has no say in it.

    Attributes:
        limit_bytes: Most for values (`TrainingSpec.memory_limit_bytes`); None: no limit.
        report: Is told, before the first step, what is taken and what is computed twice.
    """

    limit_bytes: int | None = None
    report: Callable[[TrainingMemory], None] = _silent


NO_BUDGET = MemoryBudget()


@dataclass(frozen=True, slots=True)
class Learnt:
    """New tensors, all of them, and the mean loss of the first and the last epoch."""

    tensors: dict[str, Float32]
    first_loss: float
    last_loss: float


def learn(
    model: TrainedModel,
    samples: Dataset,
    plan: RetrainPlan,
    backend: Backend,
    budget: MemoryBudget = NO_BUDGET,
) -> Learnt:
    """Train the scope's tensors on the samples.

    Raises:
        ConfigError: samples that do not fit the network, an unknown scope, a memory limit too low, or
            a loss that is no longer finite.
        DataError: no samples.
    """
    check_data(model.graph, samples)
    scope = scope_named(model.graph, plan.scope)
    batches = Batches(samples, model.preprocessing, plan.batch, plan.augmentation, plan.seed)
    steps = plan.epochs * batches.steps_per_epoch
    schedule = Schedule(plan.rate, steps, shape="cosine" if plan.schedule == "cosine" else "constant")
    spec = plan.training_spec(scope.parameters, OPTIMIZERS[plan.optimizer], budget.limit_bytes)
    trainer = backend.trainer(model.graph, spec)
    budget.report(trainer.memory)
    trainer.load(model.tensors)
    losses: list[float] = []
    for epoch in range(plan.epochs):
        total = 0.0
        for i, (x, labels) in enumerate(batches.epoch(epoch)):
            total += trainer.step(x, labels, schedule.rate(epoch * batches.steps_per_epoch + i))
        losses.append(total / batches.steps_per_epoch)
        if not math.isfinite(losses[-1]):
            raise _diverged(f"the loss is {losses[-1]}", plan)
    found = trainer.tensors()
    broken = sorted(name for name in scope.tensors if name in found and not np.isfinite(found[name]).all())
    if broken:
        raise _diverged(f"'{broken[0]}' is no longer finite", plan)
    changed = {name: found[name] for name in scope.tensors if name in found}
    kept = {name: np.array(value) for name, value in model.tensors.items()}
    return Learnt({**kept, **changed}, losses[0], losses[-1])


def with_tensors(model: TrainedModel, tensors: Tensors) -> TrainedModel:
    """The same network with other tensors; what was measured of the old ones is left behind."""
    return TrainedModel(model.graph, tensors, model.preprocessing, model.classes)


def split_samples(samples: Dataset, plan: RetrainPlan) -> tuple[Dataset, Dataset]:
    """The samples to learn from, and those kept apart to judge the result.

    Raises:
        ConfigError: too few to keep one apart and learn from another.
    """
    learnt, held_out = samples.split(plan.hold_out, plan.seed)
    if not len(learnt) or not len(held_out):
        raise ConfigError(
            f"retraining: {len(samples)} images are too few to keep a share of {plan.hold_out:g} apart; "
            "add images of each class"
        )
    return learnt, held_out


def _diverged(what: str, plan: RetrainPlan) -> ConfigError:
    return ConfigError(f"retraining: {what}, the training diverged: choose a lower rate than {plan.rate:g}")


def measure_int8(model: TrainedModel, data: Dataset, backend: Backend) -> Evaluation:
    """How well a model does in int8, as it will run."""
    predictor = backend.integer_predictor(quantize(model.graph, model.tensors), PREDICT_BATCH)
    pieces = [
        predictor.run(model.preprocessing.apply(data.images[start : start + PREDICT_BATCH]))
        for start in range(0, len(data), PREDICT_BATCH)
    ]
    return evaluate(np.concatenate(pieces), data.labels)


def is_worse(after: Evaluation, before: Evaluation) -> bool:
    """Whether a retrained model must not be taken: fewer right, or as many with a higher loss."""
    return (after.accuracy, -after.loss) < (before.accuracy, -before.loss)


def among_classes(data: Dataset, classes: tuple[str, ...]) -> Dataset:
    """The data with its labels counted in `classes`, if these hold all of its own; else as it is."""
    if data.classes == classes or not set(data.classes) <= set(classes):
        return data
    places = np.array([classes.index(name) for name in data.classes], np.int64)
    return Dataset(data.images, places[data.labels], classes, data.writers)


def with_classes(model: TrainedModel, classes: tuple[str, ...], seed: int) -> TrainedModel:
    """The model with another set of classes: a new last convolution that keeps what it can.

    Classes that the model knows keep their weights; the others start at the mean of all, plus noise
    a tenth as large as the weights' spread.

    Raises:
        ConfigError: the network does not end in a convolution over classes.
    """
    if classes == model.classes:
        return model
    graph, positions = model.graph, model.graph.positions
    head = next(node for node in reversed(graph.nodes) if isinstance(node, Conv2D))
    if head.channels != positions * len(model.classes):
        raise ConfigError(f"conv2d '{head.name}' is not a classifier: the classes cannot be exchanged")
    count = positions * len(classes)
    behind = {node.name for node in graph.nodes[graph.nodes.index(head) + 1 :]}
    pools = [name for name in spread_pools_of(graph) if name in behind]
    nodes = [
        replace(node, channels=count)
        if node is head
        else node
        if node.name not in behind or not isinstance(node, Reshape)
        else replace(node, shape=(count,))
        if set(node.inputs) <= set(pools)
        else replace(node, shape=(*node.shape[:-1], len(classes)))
        if node.shape[-1:] == (len(model.classes),)
        else node
        for node in graph.nodes
    ]
    places = {name: index for index, name in enumerate(model.classes)}
    generator = np.random.default_rng(seed)
    tensors = dict(model.tensors)
    for name in graph.parameters:
        if name.rsplit("/", 1)[0] not in (head.name, *pools):
            continue
        old = np.asarray(model.tensors[name])
        by_class = old.reshape(positions, len(model.classes), *old.shape[1:])
        mean = by_class.mean(axis=1, keepdims=True)
        noise = generator.standard_normal((positions, len(classes), *old.shape[1:])) * 0.1 * old.std()
        new = (mean + noise).astype(np.float32)
        for index, known in ((i, places[c]) for i, c in enumerate(classes) if c in places):
            new[:, index] = by_class[:, known]
        tensors[name] = new.reshape(count, *old.shape[1:])
    return TrainedModel(Graph(tuple(nodes)), tensors, model.preprocessing, classes)
