"""Weighted sums of many updates at the speed of memory.

``sum[j] = sum over devices i of weight[i] * values[i, j]``

All updates are read once, a block of columns at a time: BLAS multiplies a group of rows, where they lie, with
their weights while the block's sum stays in the processor's cache. Memory: the sum, which is float64 and so
takes as much as two float32 updates, and one block.

How exact:

- int8 and int16 with whole weights: exact, whatever the order. A group is summed in float32 where
  ``127 (or 32767) * weights of the group`` stays within 2**24, else in float64; the groups in float64, which
  holds every whole number up to 2**53. More than that is refused.
- float32: the products and the sum of one group are float32, the sum of the groups is float64. The error is
  at most ``(FLOATS.rows + 1) * 2**-24`` of the sum of the products' sizes; measured 1e-7. The
  order is that of the rows, so neither the order of arrival nor the number of threads changes a bit;
  another processor may.
- weights that are not whole (clipping, the geometric median): float64 for integers, float32 for float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

from emberfleet.core.arrays import Array, Float64
from emberfleet.core.errors import RoundError
from emberfleet.server.aggregate.stored import StoredUpdates


@dataclass(frozen=True, slots=True)
class Tile:
    """What one product takes in.

    Attributes:
        rows: Updates of a group: the more, the fewer sums of groups; the fewer, the more exact.
        columns: Values of a block.
    """

    rows: int
    columns: int


FLOATS: Final = Tile(128, 1 << 15)
"""Read where they lie; the block's sum is 128 KiB, for the second cache."""
INTEGERS: Final = Tile(16, 1 << 13)
"""Copied to float32 or float64 first: 512 KiB or 1 MiB, for the second cache."""
_EXACT: Final = {np.dtype(np.float32): 1 << 24, np.dtype(np.float64): 1 << 53}


@dataclass(frozen=True, slots=True)
class _Group:
    """Neighbouring rows with their weights; the weights' type is the one they are summed in."""

    rows: slice
    weights: Array


def weighted_sum(updates: StoredUpdates, weights: Float64, threads: int = 1, divisor: float = 1.0) -> Float64:
    """The weighted sum of updates, in wire numbers.

    Args:
        updates: What to sum.
        weights: ``(devices,)``, 0 or more, one for each update.
        threads: How many may work; the result is the same.
        divisor: What the sum is divided by at the end, while it is in the cache.

    Returns:
        ``(size,)``, a new array.

    Raises:
        RoundError: A sum of integers that could pass 2**53, where float64 rounds.
    """
    tile = FLOATS if updates.values.dtype.kind == "f" else INTEGERS
    groups = tuple(_groups(updates, weights, tile.rows))
    size = updates.values.shape[1]
    total = np.empty(size, np.float64)

    def add(columns: range) -> None:
        room = np.empty(0 if tile is FLOATS else tile.rows * tile.columns, np.float64)
        kept = columns.start
        for begin in columns:
            end = min(begin + tile.columns, size)
            part = total[begin:end]
            part[:] = 0.0
            for group in groups:
                block = updates.values[group.rows, begin:end]
                if block.dtype != group.weights.dtype:
                    typed = room.view(group.weights.dtype)[: block.size].reshape(block.shape)
                    np.copyto(typed, block)
                    block = typed
                part += group.weights @ block
            part /= divisor
            if end - kept >= updates.stretch // threads:
                updates.give_back(kept, end)
                kept = end

    blocks = range(0, size, tile.columns)
    share = -(-len(blocks) // threads)
    # One thread of BLAS each: its own would split a product by their number, and so change bits.
    with threadpool_limits(1, user_api="blas"):
        if threads == 1:
            add(blocks)
        else:
            with ThreadPoolExecutor(threads) as pool:
                for _ in pool.map(add, (blocks[i : i + share] for i in range(0, len(blocks), share))):
                    pass
    return total


def weighted_mean(updates: StoredUpdates, threads: int = 1) -> Float64:
    """``weighted_sum / sum of weights`` with the updates' own weights.

    Source:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1; the weight is the number of samples.
    """
    weights = np.array(updates.weights, np.float64)
    return weighted_sum(updates, weights, threads, float(sum(updates.weights)))


def _groups(updates: StoredUpdates, weights: Float64, rows: int) -> Iterator[_Group]:
    """Groups of rows that cover all updates; rows between them that do not count weigh nothing."""
    values = updates.values
    by_row = np.zeros(len(values), np.float64)
    by_row[list(updates.rows)] = weights
    largest = 0 if values.dtype.kind == "f" else np.iinfo(values.dtype).max
    whole = bool((weights == np.rint(weights)).all())
    if largest and whole and largest * float(weights.sum()) > _EXACT[np.dtype(np.float64)]:
        raise RoundError(
            f"aggregate: weights of {weights.sum():.0f} in all, expected at most "
            f"{_EXACT[np.dtype(np.float64)] // largest} for an exact sum of {values.dtype}; lower `heaviest`"
        )
    for begin in range(updates.rows[0], updates.rows[-1] + 1, rows):
        part = by_row[begin : min(begin + rows, updates.rows[-1] + 1)]
        if part.any():
            exact = not largest or (whole and largest * float(part.sum()) <= _EXACT[np.dtype(np.float32)])
            kind: np.dtype[Any] = np.dtype(np.float32 if exact else np.float64)
            yield _Group(slice(begin, begin + len(part)), part.astype(kind))
