"""Krum and multi-Krum: keep the updates that lie closest to their neighbours.

The score of an update is the sum of its squared distances to the ``n - f - 2`` updates nearest to it. Krum
takes the update of the lowest score, multi-Krum the plain mean of the ``n - f - 2`` lowest. Equal scores go
by the device's id. Weights are not used. Bears `f` devices, if ``n >= 2 f + 3``.

All distances come from one matrix product for each block. Cost: ``n^2`` per coordinate; memory one block and
two numbers for each pair of devices.

Source:
    Blanchard et al. 2017, Machine Learning with Adversaries, NeurIPS, sections 4 and 5 (multi-Krum); the
    number taken after El Mhamdi et al. 2018, arXiv:1802.07927, section 3.
"""

from __future__ import annotations

import numpy as np

from emberfleet.core.arrays import Float64, Int64
from emberfleet.core.updates import UpdatePlan
from emberfleet.server.aggregate.blocks import inner_products, squared_distances
from emberfleet.server.aggregate.stored import StoredUpdates
from emberfleet.server.aggregate.weighted_sum import weighted_sum


def krum(
    updates: StoredUpdates, plan: UpdatePlan, byzantine: int, chosen: int, threads: int = 1
) -> tuple[Float64, tuple[str, ...]]:
    """The mean of the `chosen` updates with the lowest scores, and the devices left out.

    Args:
        updates: What to choose from: at least ``2 * byzantine + 3``.
        plan: Gives each number its real size.
        byzantine: Devices that may lie.
        chosen: 1 for Krum.
        threads: How many may work on the sum.
    """
    best = krum_order(squared_distances(inner_products(updates, plan)), byzantine)[:chosen]
    weights = np.zeros(len(updates.devices))
    weights[best] = 1.0
    total = weighted_sum(updates, weights, threads, chosen)
    return total, tuple(name for name, weight in zip(updates.devices, weights, strict=True) if not weight)


def krum_order(distances: Float64, byzantine: int) -> Int64:
    """Updates from the lowest score to the highest.

    Args:
        distances: ``(n, n)`` squared distances.
        byzantine: Devices that may lie.
    """
    count = len(distances)
    others = distances.copy()
    np.fill_diagonal(others, np.inf)
    others.sort(axis=1)
    scores = others[:, : count - byzantine - 2].sum(axis=1)
    return np.asarray(np.argsort(scores, kind="stable"), np.int64)
