"""Phase apply: the updates of a round become one change, and the change the next model's tensors."""

from __future__ import annotations

from dataclasses import replace

from emberfleet.core.arrays import Float32, Float64, Tensors
from emberfleet.core.updates import UpdatePlan, unflatten_update
from emberfleet.server.aggregate.optimizers import next_model
from emberfleet.server.aggregate.rules import Aggregate, aggregate
from emberfleet.server.aggregate.stored import UpdateFile
from emberfleet.server.rounds.state import Phase, Round, require


def aggregate_sealed(round_: Round, file: UpdateFile, update: UpdatePlan) -> Aggregate:
    """What the updates of a sealed round amount to by its plan's rule.

    Raises:
        RoundError: Too few updates for the rule.
        StorageError: The round's file of updates cannot be read.
    """
    require(round_, Phase.APPLY)
    return aggregate(round_.plan.rule_settings, file.updates(round_.accepted), update)


def apply_mean(
    round_: Round, model: Tensors, mean: Float64, update: UpdatePlan, state: Tensors
) -> tuple[Round, dict[str, Float32], dict[str, Float32]]:
    """The round in phase publish, the new model's tensors, and the server optimizer's new state.

    Args:
        round_: In phase apply.
        model: The published model's tensors.
        mean: ``(size,)`` mean change in wire numbers, of either mode.
        update: The plan of the updates.
        state: The optimizer's, as the last round left it.
    """
    require(round_, Phase.APPLY)
    tensors, kept = next_model(model, unflatten_update(mean, update), state, round_.plan)
    return replace(round_, phase=Phase.PUBLISH), tensors, kept
