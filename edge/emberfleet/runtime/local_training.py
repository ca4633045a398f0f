"""The device's part of a round: learn from its own samples, and give what changed in the update's order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from emberfleet.core.arrays import Float32
from emberfleet.core.errors import ConfigError
from emberfleet.runtime.retraining import NO_BUDGET, MemoryBudget, RetrainPlan, learn
from emberfleet.train.plans import scope_named

if TYPE_CHECKING:
    from emberfleet.core.bundle import Bundle
    from emberfleet.engine.backend import Backend
    from emberfleet.train.data.dataset import Dataset
    from emberfleet.train.trained import TrainedModel


@dataclass(frozen=True, slots=True)
class LocalResult:
    """What one device learnt.

    Attributes:
        old: The scope's tensors before, in the order of the update.
        new: The same tensors after.
        sample_count: Images learnt from: the weight of the update in the average.
        metrics: ``first_loss`` and ``loss``: mean loss of the first and the last epoch.
    """

    old: dict[str, Float32]
    new: dict[str, Float32]
    sample_count: int
    metrics: Mapping[str, float]


def train_update(
    bundle: Bundle | TrainedModel,
    samples: Dataset,
    plan: RetrainPlan,
    seed: int,
    backend: Backend,
    budget: MemoryBudget = NO_BUDGET,
) -> LocalResult:
    """Retrain a published model on a device's samples; nothing is judged, nothing is installed.

    Args:
        bundle: The model of the round, opened; or its content, which spares reading it again.
        samples: The device's own, with the classes of the model.
        plan: Scope, epochs, rate: as the server sent them.
        seed: The device's own seed of this round; takes the place of the plan's.
        backend: Where it is computed.
        budget: Most memory that the device gives to it.

    Raises:
        ConfigError: samples that do not fit the model, a memory limit too low, or training that diverged.
    """
    from emberfleet.converters.bundle import model_of
    from emberfleet.train.trained import TrainedModel

    model = bundle if isinstance(bundle, TrainedModel) else model_of(bundle)
    if samples.classes != model.classes:
        raise ConfigError(
            f"the samples have the classes {list(samples.classes)[:10]}, expected those of the model, "
            f"{list(model.classes)[:10]}"
        )
    learnt = learn(model, samples, replace(plan, seed=seed), backend, budget)
    names = [name for name in scope_named(model.graph, plan.scope).tensors if name in model.tensors]
    return LocalResult(
        old={name: model.tensors[name] for name in names},
        new={name: learnt.tensors[name] for name in names},
        sample_count=len(samples),
        metrics={"first_loss": learnt.first_loss, "loss": learnt.last_loss},
    )
