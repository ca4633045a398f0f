"""What secure sums cost in accuracy: the same changes, averaged exactly and through masks and 8 or 16 bits.

A base model learns from some writers; then twenty other people's devices learn from it, round after round, as
in the handwriting demo. Each round their changes are computed once, from the exact model. One server
averages them in float64; the others clip, round, mask, pack, add up, unmask and read them, with the code
that devices and servers run. Every model that comes of it is measured in int8 on people whom nobody learnt
from. So what differs is the clipping and rounding alone, over rounds in which it could build up.

``python -m emberfleet.cli.fleet_figures.accuracy DATA SCALE`` is the child that does it, SCALE in JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from emberfleet.cli.fleet_figures.children import answer_once, ask_once
from emberfleet.core.arrays import Float32, Tensors
from emberfleet.core.secure.agreement import MaskKey, RoundContext
from emberfleet.core.secure.layout import SumLayout
from emberfleet.core.secure.masking import add_masked, add_masks, empty_sum, mask_update, read_sum
from emberfleet.core.secure.neighbours import harary_graph, permute
from emberfleet.core.secure.pairs import Member, masks_added, masks_left
from emberfleet.core.updates import UpdatePlan, unflatten_update

if TYPE_CHECKING:
    from emberfleet.engine.backend import Backend
    from emberfleet.runtime.local_training import LocalResult
    from emberfleet.server.rounds.plan import RoundPlan
    from emberfleet.train.data.dataset import Dataset
    from emberfleet.train.trained import TrainedModel

EXACT: Final = "exact"
BITS: Final = (16, 8)
HEAVIEST: Final = 132
"""Nobody has more images, and most have nearly as many: little of the resolution is lost."""
SEED: Final = 0
TRAINING: Final[Mapping[str, Any]] = {
    "scope": "full", "epochs": 5, "batch": 16, "optimizer": "sgd", "rate": 0.055, "schedule": "constant",
    "shift": 1.5, "rotation_degrees": 8.0, "scale": 0.1,
}  # fmt: skip
"""As the handwriting demo's devices learn."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done.

    Attributes:
        devices: In every round.
        rounds: In all.
        measured: Of the last so many rounds the accuracies are compared.
        base_epochs: Of the base model.
        epochs: On each device.
        every: Of the test images every so manieth is used.
    """

    devices: int = 20
    rounds: int = 8
    measured: int = 4
    base_epochs: int = 16
    epochs: int = 5
    every: int = 1


FULL: Final = Scale()
QUICK: Final = Scale(devices=4, rounds=1, measured=1, base_epochs=1, epochs=1, every=20)


def measure_accuracy(data: Path, scale: Scale) -> dict[str, Any]:
    """Accuracies in per cent of every way of averaging, by round, and what each lost by it."""
    return ask_once("accuracy", __name__, str(data), json.dumps(asdict(scale)))


def federate(data: Path, scale: Scale) -> dict[str, Any]:
    """All rounds, in this process."""
    from emberfleet.engine.selection import choose_backend
    from emberfleet.server.rounds.plan import RoundPlan
    from emberfleet.train.data.names import load

    engine = choose_backend("auto", 1)
    base = _train_base(load("handwriting", data, "base"), scale, engine)
    people, test = load("handwriting", data, "devices"), load("handwriting", data, "test")
    test = test.subset(np.arange(0, len(test), scale.every))
    assert people.writers is not None
    writers = np.unique(people.writers)[: scale.devices]
    owners = [people.subset(people.writers == writer) for writer in writers]
    training = {**TRAINING, "epochs": scale.epochs}
    plan = RoundPlan(
        training=training, rate_decay=0.9, warmup_rounds=4, server_optimizer="fedavgm", server_momentum=0.7
    )
    branches = [Branch(base, plan), *(Branch(base, plan, bits) for bits in BITS)]
    exact = branches[0]
    rounds: list[dict[str, float]] = []
    for number in range(1, scale.rounds + 1):
        learnt = [_learn(exact.model, own, plan, number, index, engine) for index, own in enumerate(owners)]
        for branch in branches:
            branch.take(learnt, number)
        if number > scale.rounds - scale.measured:
            rounds.append({branch.name: branch.accuracy(test) for branch in branches})
    means = {name: float(np.mean([row[name] for row in rounds])) for name in rounds[0]}
    return {
        "lost": {name: means[EXACT] - value for name, value in means.items() if name != EXACT},
        "base": Branch(base, plan).accuracy(test),
        "rounds": rounds,
        "test_images": len(test),
        "backend": engine.name,
    }


class Branch:
    """One way of averaging, and the model that came of it so far."""

    def __init__(self, model: TrainedModel, plan: RoundPlan, bits: int = 0) -> None:
        """Begin with a model; `bits` of a value as it is sent, 0 for the exact mean."""
        self.model, self._plan, self._bits = model, plan, bits
        self._state: Tensors = {}

    @property
    def name(self) -> str:
        """As the figures call it."""
        return f"{self._bits} bits" if self._bits else EXACT

    def take(self, learnt: Sequence[LocalResult], number: int) -> None:
        """Average what the devices learnt, and move the model."""
        from emberfleet.runtime.retraining import with_tensors
        from emberfleet.server.aggregate.optimizers import next_model

        change = self._secure(learnt, number) if self._bits else exact_mean(learnt)
        new, self._state = next_model(self.model.tensors, change, self._state, self._plan)
        self.model = with_tensors(self.model, new)

    def accuracy(self, test: Dataset) -> float:
        """In per cent, in int8."""
        from emberfleet.converters.bundle import build_bundle
        from emberfleet.core.bundle import Bundle
        from emberfleet.core.signing import SigningKey
        from emberfleet.runtime.runtime import Runtime

        key = SigningKey.generate()
        opened = Bundle.open(build_bundle(self.model, 1, key), [key.verify_key])
        return 100 * Runtime(opened, threads=1).evaluate(test).accuracy

    def _secure(self, learnt: Sequence[LocalResult], number: int) -> dict[str, Float32]:
        plan = UpdatePlan.for_model(self.model.tensors, learnt[0].old, self._bits)
        return secure_mean(learnt, plan, number)


def exact_mean(learnt: Sequence[LocalResult]) -> dict[str, Float32]:
    """The mean change by sample counts, in float64, nothing clipped."""
    weight = sum(result.sample_count for result in learnt)
    return {
        name: np.asarray(
            sum(
                result.sample_count * (result.new[name].astype(np.float64) - result.old[name])
                for result in learnt
            )
            / weight,
            np.float32,
        )
        for name in learnt[0].old
    }


def secure_mean(learnt: Sequence[LocalResult], plan: UpdatePlan, number: int) -> dict[str, Float32]:
    """The mean change by a secure sum of all devices, each of which is everybody's neighbour."""
    count = len(learnt)
    layout = SumLayout(plan, count, HEAVIEST)
    seeds = [hashlib.sha256(f"{number}/{index}".encode()).digest() for index in range(count)]
    context = RoundContext(f"{number:032x}", seeds[0])
    graph = harary_graph(permute(seeds[0], count), count - 1)
    keys = [MaskKey.generate() for _ in learnt]
    members = [Member(f"{index:032x}", key.public) for index, key in enumerate(keys)]
    total = empty_sum(layout)
    for index, result in enumerate(learnt):
        peers = [members[other] for other in graph[index]]
        masks = masks_added(members[index].device_id, keys[index], seeds[index], peers, context)
        change = np.concatenate(
            [(result.new[tensor.name] - result.old[tensor.name]).ravel() for tensor in plan.tensors]
        )
        add_masked(total, mask_update(change, result.sample_count, layout, masks, seeds[index]), layout)
    add_masks(total, masks_left(members, graph, range(count), dict(enumerate(seeds)), context))
    return unflatten_update(read_sum(total, layout, count).mean, plan)


def _train_base(data: Dataset, scale: Scale, engine: Backend) -> TrainedModel:
    from emberfleet.train.recipes import recipe_for
    from emberfleet.train.training import choice_for, train_model

    quantize = min(2, scale.base_epochs)
    config = replace(
        recipe_for("handwriting").config, epochs=scale.base_epochs, quantize_epochs=quantize, seed=SEED
    )
    return train_model("small", choice_for(data), data, None, config, engine, [])


def _learn(
    model: TrainedModel, own: Dataset, plan: RoundPlan, number: int, index: int, engine: Backend
) -> LocalResult:
    from emberfleet.runtime.local_training import train_update
    from emberfleet.runtime.retraining import RetrainPlan

    return train_update(
        model, own, RetrainPlan.from_settings(plan.training_of(number)), 1000 * number + index, engine
    )


if __name__ == "__main__":
    answer_once(lambda: federate(Path(sys.argv[1]), Scale(**json.loads(sys.argv[2]))))
