"""Dropout masks from a counter-based hash: the same bits on every backend, in any order.

No generator state exists: whether element `e` of a node is kept is a function of four 32-bit
unsigned integers, so a kernel computes it where it needs it and backward need not store it::

    mix(x):  x ^= x >> 16;  x *= 0x7feb352d;  x ^= x >> 15;  x *= 0x846ca68b;  x ^= x >> 16
    key    = mix(mix(mix(seed) + step) + node)
    keep   = mix(mix(e) + key) >= threshold          (all arithmetic modulo 2**32)

`step` is the number of updates done before this one (0 for the first), `node` the index of the
node in `Graph.nodes`, `e` the index of the element in the batch's NHWC order, channels unpadded.
A kept value is multiplied by ``1 / (1 - rate)``. `mix` is a bijection without known bias worth
minding; the inner `mix(e)` keeps masks of different keys from being shifts of one another.

Source: Wellons 2018, "Prospecting for Hash Functions" (lowbias32).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WORD = 0xFFFFFFFF


def threshold(rate: float) -> int:
    """The smallest hash that is kept: ``rate * 2**32``, rounded down."""
    return int(rate * 2.0**32)


def mask_key(seed: int, step: int, node: int) -> int:
    """The key of one node's mask in one step: what a kernel takes as its argument."""
    return _mix_int(_mix_int(_mix_int(seed & _WORD) + step & _WORD) + node & _WORD)


def keep_mask(key: int, rate: float, count: int) -> NDArray[np.bool_]:
    """Which of the elements 0..count-1 are kept."""
    with np.errstate(over="ignore"):
        mixed = _mix(np.arange(count, dtype=np.uint32))
        mixed += np.uint32(key)
        kept: NDArray[np.bool_] = _mix(mixed) >= np.uint32(threshold(rate))
    return kept


def _mix(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """`mix` of the module's docstring, in place."""
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x


def _mix_int(x: int) -> int:
    x ^= x >> 16
    x = x * 0x7FEB352D & _WORD
    x ^= x >> 15
    x = x * 0x846CA68B & _WORD
    return x ^ x >> 16
