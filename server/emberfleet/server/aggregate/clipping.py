"""The mean of updates whose norms are bounded first: no device moves the model by more than its share.

``f_i = min(1, bound / |u_i|);  mean = sum of w_i * f_i * u_i / sum of w_i``

Weights are used. Norms are L2 over all tensors, in real units. Without a bound the median of the round's
norms is taken, so half the devices keep their update whole; then fewer than half may lie about theirs. An
attacker within the bound still pulls: by at most ``share of the weight * bound``.

Source:
    Sun et al. 2019, arXiv:1911.07963, section 4.2 (norm thresholding); the median as the bound as in
    Andrew et al. 2021, arXiv:1905.03871, section 2, at quantile 0.5.
"""

from __future__ import annotations

import numpy as np

from emberfleet.core.arrays import Float64
from emberfleet.core.updates import UpdatePlan
from emberfleet.server.aggregate.blocks import squared_norms
from emberfleet.server.aggregate.stored import StoredUpdates
from emberfleet.server.aggregate.weighted_sum import weighted_sum


def clipped_mean(updates: StoredUpdates, plan: UpdatePlan, bound: float, threads: int = 1) -> Float64:
    """The weighted mean of clipped updates; reads all updates twice.

    Args:
        updates: What to average.
        plan: Gives each number its real size.
        bound: Largest norm; 0 for the median of the norms.
        threads: How many may work on the sum.
    """
    norms = np.sqrt(squared_norms(updates, plan))
    limit = bound or float(np.median(norms))
    factors = np.divide(limit, norms, out=np.ones_like(norms), where=norms > limit)
    weights = np.array(updates.weights, np.float64)
    return weighted_sum(updates, factors * weights, threads, float(sum(updates.weights)))
