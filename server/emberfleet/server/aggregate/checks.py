"""Whether one opened update of a sealed round may count.

In this order: the weight it claims, its length, that every number is finite and within the plan's clip, and
its norm. The first that fails refuses the whole update: nothing is cut down to fit, since a device that
sends what the plan excludes is broken or lies.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from emberfleet.core.arrays import Array
from emberfleet.core.messages import Reason, RefusedError, UpdateHeader
from emberfleet.core.updates import UpdatePlan, read_update

COLUMNS: Final = 1 << 14


def check_update(
    payload: bytes, header: UpdateHeader, plan: UpdatePlan, *, norm_bound: float, weight_bound: int
) -> Array:
    """The flat wire numbers of an update that may count: a view of `payload`, not a copy.

    Args:
        payload: What was sealed.
        header: What stands before it and is bound to it.
        plan: Of the round's updates.
        norm_bound: Largest L2 norm over all tensors, in real units; 0 for none.
        weight_bound: Largest number of samples that a device may claim.

    Raises:
        RefusedError: WEIGHT or NORM.
        ShapeError: Not the length that the plan gives.
        NotFiniteError: NaN or an infinity.
        OutOfRangeError: A value beyond its tensor's clip.
    """
    if not 1 <= header.sample_count <= weight_bound:
        raise RefusedError(
            Reason.WEIGHT,
            f"the update claims {header.sample_count} samples, expected 1 to {weight_bound}",
            f"Train on at most {weight_bound} samples; the fleet's owner may raise `weight_bound`.",
        )
    values = read_update(payload, plan)
    if norm_bound:
        found = update_norm(values, plan)
        if found > norm_bound:
            raise RefusedError(
                Reason.NORM,
                f"the update's norm is {found:.6g}, expected at most {norm_bound:g}",
                "Train more gently (a lower rate, fewer epochs, a larger `proximal`); the fleet's owner may "
                "raise `norm_bound`.",
            )
    return values


def update_norm(values: Array, plan: UpdatePlan) -> float:
    """The L2 norm of an update over all tensors, in real units."""
    total = 0.0
    for tensor, span in plan.spans():
        squares = 0.0
        for begin in range(span.start, span.stop, COLUMNS):
            part = values[begin : min(begin + COLUMNS, span.stop)].astype(np.float64)
            squares += float(part @ part)
        total += squares * plan.step(tensor) ** 2
    return math.sqrt(total)
