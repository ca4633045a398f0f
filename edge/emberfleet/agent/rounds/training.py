"""What a retraining gives a round: tensors before and after, or their difference as one vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import RoundError, ShapeError
from emberfleet.core.messages import MAX_SAMPLES

if TYPE_CHECKING:
    from emberfleet.core.arrays import Float32, Tensors
    from emberfleet.core.offers import RoundOffer
    from emberfleet.core.updates import UpdatePlan


@dataclass(frozen=True, slots=True)
class Retrained:
    """What a retraining gives: tensors before and after, and on how many samples."""

    old: Tensors
    new: Tensors
    sample_count: int
    metrics: Mapping[str, float] = field(default_factory=dict)


def seed_of(offer: RoundOffer) -> int:
    """The device's own seed: differs between devices and rounds, repeats with them."""
    return int(sha256_hex(f"{offer.terms.seed}/{offer.device_id}".encode())[:8], 16)


def check_samples(result: Retrained, number: int) -> None:
    """Raise `RoundError` where nothing was learnt, or more than one device may claim."""
    if not 1 <= result.sample_count <= MAX_SAMPLES:
        raise RoundError(
            f"round {number}: trained on {result.sample_count} samples, expected 1 to {MAX_SAMPLES}"
        )


def change_of(result: Retrained, plan: UpdatePlan) -> Float32:
    """New minus old of the plan's tensors, flattened in its order: ``(plan.size,)`` float32.

    Raises:
        ShapeError: A tensor is missing or has another shape than the plan says.
    """
    import numpy as np

    flat = np.empty(plan.size, np.float32)
    for tensor, span in plan.spans():
        for tensors in (result.old, result.new):
            shape = tuple(tensors[tensor.name].shape) if tensor.name in tensors else None
            if shape != tensor.shape:
                raise ShapeError(f"update: '{tensor.name}' is {shape}, expected {tensor.shape}")
        np.subtract(result.new[tensor.name].reshape(-1), result.old[tensor.name].reshape(-1), out=flat[span])
    return flat
