"""Rules that sort each coordinate over the devices: the median and the trimmed mean.

Weights are not used: every device counts once, so claiming many samples gains nothing. Both read the
updates once and hold two blocks.

Source:
    Yin et al. 2018, arXiv:1803.01498, definitions 1 and 2.
"""

from __future__ import annotations

import numpy as np

from emberfleet.core.arrays import Array, Float64
from emberfleet.server.aggregate.blocks import columns_of
from emberfleet.server.aggregate.stored import StoredUpdates


def coordinate_median(updates: StoredUpdates) -> Float64:
    """The middle of the values of each coordinate, or the mean of the two in the middle.

    Bears fewer than half of the devices.
    """
    return _middle(updates, (len(updates.devices) - 1) // 2)


def trimmed_mean(updates: StoredUpdates, trimmed: int) -> Float64:
    """The mean of each coordinate without its `trimmed` smallest and `trimmed` largest values.

    Bears `trimmed` devices; ``2 * trimmed`` must be below their number.
    """
    return _middle(updates, trimmed)


def _middle(updates: StoredUpdates, left_out: int) -> Float64:
    """The mean of what is left of each coordinate when as many are left out at both ends."""
    count = len(updates.devices)
    found = np.empty(updates.values.shape[1], np.float64)
    for begin, end in columns_of(updates, updates.values.dtype.itemsize):
        # A coordinate's values side by side: numpy sorts these ten times as fast as columns.
        across: Array = np.ascontiguousarray(updates.block(begin, end).T)
        across.sort(axis=1)
        across[:, left_out : count - left_out].mean(axis=1, dtype=np.float64, out=found[begin:end])
    return found
