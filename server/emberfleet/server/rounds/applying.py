"""Phase apply: the mean of the updates becomes the next model's tensors."""

from __future__ import annotations

from dataclasses import replace

from emberfleet.core.arrays import Float32, Tensors
from emberfleet.core.updates import UpdatePlan, unflatten_update
from emberfleet.server.aggregate.fedavg import WeightedMean
from emberfleet.server.aggregate.momentum import next_model
from emberfleet.server.rounds.state import Phase, Round, require


def apply_mean(
    round_: Round, model: Tensors, mean: WeightedMean, update: UpdatePlan, velocity: Tensors
) -> tuple[Round, dict[str, Float32], dict[str, Float32]]:
    """The round in phase publish, the new model's tensors, and the server's new momentum."""
    require(round_, Phase.APPLY)
    change = unflatten_update(mean.mean(), update)
    tensors, kept = next_model(model, change, velocity, round_.plan.server_momentum, round_.plan.server_rate)
    return replace(round_, phase=Phase.PUBLISH), tensors, kept
