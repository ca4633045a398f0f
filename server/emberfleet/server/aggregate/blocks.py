"""Walking over all updates a block of columns at a time, so that memory stays bounded.

One block of all updates takes at most `BLOCK_BYTES`; a rule holds two or three of them, its result, and for
rules that compare updates with each other one number for each pair of updates (`MAX_COMPARED`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from threadpoolctl import threadpool_limits

from emberfleet.core.arrays import Float64
from emberfleet.core.errors import RoundError
from emberfleet.core.updates import UpdatePlan
from emberfleet.server.aggregate.stored import StoredUpdates

BLOCK_BYTES: Final = 4 << 20
MAX_COMPARED: Final = 4096
"""Most updates compared pair by pair: 128 MiB of float64."""


def columns_of(updates: StoredUpdates, itemsize: int = 8) -> Iterator[tuple[int, int]]:
    """Begin and end of each block, for values of this many bytes."""
    size = updates.values.shape[1]
    step = max(16, BLOCK_BYTES // (itemsize * len(updates.devices)))
    kept = 0
    for begin in range(0, size, step):
        end = min(begin + step, size)
        yield begin, end
        if end - kept >= updates.stretch:
            updates.give_back(kept, end)
            kept = end


def real_blocks(updates: StoredUpdates, plan: UpdatePlan) -> Iterator[Float64]:
    """``(devices, columns)`` real changes, block after block: wire numbers times their tensor's step."""
    ends = np.cumsum([tensor.size for tensor in plan.tensors])
    steps = np.array([plan.step(tensor) for tensor in plan.tensors])
    for begin, end in columns_of(updates):
        tensors = np.searchsorted(ends, np.arange(begin, end), side="right")
        yield updates.block(begin, end) * steps[tensors]


def squared_norms(updates: StoredUpdates, plan: UpdatePlan) -> Float64:
    """``(devices,)`` squared L2 norms of the real changes, over all tensors."""
    total = np.zeros(len(updates.devices))
    for block in real_blocks(updates, plan):
        total += np.einsum("ij,ij->i", block, block)
    return total


def inner_products(updates: StoredUpdates, plan: UpdatePlan) -> Float64:
    """``(devices, devices)`` inner products of the real changes: one matrix product for each block.

    Raises:
        RoundError: More than `MAX_COMPARED` updates.
    """
    count = len(updates.devices)
    if count > MAX_COMPARED:
        raise RoundError(
            f"aggregate: {count} updates to compare pair by pair, expected at most {MAX_COMPARED}; "
            "choose a smaller cohort, or the median or the trimmed mean"
        )
    total = np.zeros((count, count))
    # One thread: the number that BLAS takes would change bits.
    with threadpool_limits(1, user_api="blas"):
        for block in real_blocks(updates, plan):
            total += block @ block.T
    return total


def squared_distances(products: Float64) -> Float64:
    """``(devices, devices)`` squared distances from inner products: ``|a|^2 + |b|^2 - 2 a.b``, 0 or more."""
    norms = np.diagonal(products)
    found: Float64 = np.maximum(norms[:, None] + norms[None, :] - 2.0 * products, 0.0)
    return found
