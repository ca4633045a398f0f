from __future__ import annotations

import numpy as np
import pytest

from emberfleet.engine.dropout import keep_mask, mask_key, threshold

WORD = 1 << 32


def plain_mix(x: int) -> int:
    x ^= x >> 16
    x = (x * 0x7FEB352D) % WORD
    x ^= x >> 15
    x = (x * 0x846CA68B) % WORD
    return x ^ (x >> 16)


def test_the_mask_is_the_documented_hash() -> None:
    seed, step, node, rate = 7, 123, 5, 0.3
    key = plain_mix((plain_mix((plain_mix(seed) + step) % WORD) + node) % WORD)
    assert mask_key(seed, step, node) == key
    expected = [plain_mix((plain_mix(e) + key) % WORD) >= threshold(rate) for e in range(1000)]
    assert keep_mask(key, rate, 1000).tolist() == expected


def test_large_and_negative_seeds_wrap_to_32_bits() -> None:
    assert mask_key(WORD + 3, 0, 0) == mask_key(3, 0, 0)
    assert mask_key(-1, 0, 0) == mask_key(WORD - 1, 0, 0)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_the_share_of_zeros_is_the_rate(rate: float) -> None:
    dropped = 1.0 - keep_mask(mask_key(1, 2, 3), rate, 100_000).mean()
    assert abs(dropped - rate) <= 5.0 * np.sqrt(rate * (1.0 - rate) / 100_000)


@pytest.mark.parametrize("other", [(2, 0, 0), (1, 1, 0), (1, 0, 1)])
def test_seed_step_and_node_each_change_the_mask_independently(other: tuple[int, int, int]) -> None:
    first = keep_mask(mask_key(1, 0, 0), 0.5, 10_000)
    second = keep_mask(mask_key(*other), 0.5, 10_000)
    for shift in range(3):
        same = float((first[shift:] == second[: len(second) - shift]).mean())
        assert abs(same - 0.5) < 0.03
