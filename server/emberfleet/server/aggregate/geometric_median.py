"""The geometric median: the point whose weighted distances to all updates add up to the least.

Smoothed Weiszfeld: ``b_i = w_i / max(smoothing, |z - u_i|);  z = sum of b_i * u_i / sum of b_i``, from the
weighted mean on. Every `z` is a mixture of the updates, ``z = sum of a_i * u_i``, so
``|z - u_i|^2 = a.G.a - 2 (G a)_i + G_ii`` with the inner products `G`: the updates are read once for `G` and
once for the result, however many steps it takes. Weights are used. Bears less than half of the weight.

Source:
    Pillutla et al. 2022, Robust Aggregation for Federated Learning, IEEE TSP 70, arXiv:1912.13445,
    algorithm 2.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from emberfleet.core.arrays import Float64
from emberfleet.core.updates import UpdatePlan
from emberfleet.server.aggregate.blocks import inner_products
from emberfleet.server.aggregate.stored import StoredUpdates
from emberfleet.server.aggregate.weighted_sum import weighted_sum

MAX_STEPS: Final = 1000
TOLERANCE: Final = 1e-9
"""The mixture counts as found when no share moves by more."""
SMOOTHING: Final = 1e-6
"""Distance below which an update counts as reached, in real units (the paper's nu)."""


def geometric_median(updates: StoredUpdates, plan: UpdatePlan, threads: int = 1) -> Float64:
    """The smoothed geometric median, in wire numbers."""
    shares = mixture(inner_products(updates, plan), np.array(updates.weights, np.float64))
    return weighted_sum(updates, shares, threads)


def mixture(products: Float64, weights: Float64) -> Float64:
    """The share of each update in the geometric median: ``(devices,)``, 1 in all.

    Args:
        products: ``(devices, devices)`` inner products of the updates.
        weights: ``(devices,)``, above 0.
    """
    shares: Float64 = weights / weights.sum()
    for _ in range(MAX_STEPS):
        along = products @ shares
        squared = shares @ along - 2.0 * along + np.diagonal(products)
        pulls = weights / np.sqrt(np.maximum(squared, SMOOTHING**2))
        moved: Float64 = pulls / pulls.sum()
        step = float(np.max(np.abs(moved - shares)))
        shares = moved
        if step < TOLERANCE:
            break
    return shares
