"""Replays of reading requests are refused, for as long as a signature may be old, in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.requests import CLOCK_WINDOW_S
from emberfleet.server.api.nonces import GENERATION_S, SeenNonces


def test_a_nonce_counts_once_per_device() -> None:
    seen = SeenNonces()
    assert seen.spend_nonce("a", "n", 1000.0)
    assert not seen.spend_nonce("a", "n", 1001.0)
    assert seen.spend_nonce("b", "n", 1001.0)


@given(st.floats(0, GENERATION_S), st.floats(-CLOCK_WINDOW_S, CLOCK_WINDOW_S), st.floats(0, 1))
def test_a_nonce_is_known_for_as_long_as_its_signature_is_young(
    first: float, off: float, when: float
) -> None:
    seen = SeenNonces()
    seen.spend_nonce("z", "start", 10_000.0)
    sent = 10_000.0 + first
    assert seen.spend_nonce("a", "n", sent)
    created = sent + off
    last = created + CLOCK_WINDOW_S
    for moment in (sent + when * max(0.0, last - sent), last):
        assert not seen.spend_nonce("a", "n", moment)


def test_a_clock_set_back_forgets_nothing_young() -> None:
    seen = SeenNonces()
    assert seen.spend_nonce("a", "n", 10_000.0)
    assert not seen.spend_nonce("a", "n", 9_000.0)


def test_the_table_is_bounded_and_a_greedy_device_shuts_out_itself_alone() -> None:
    seen = SeenNonces(most=100, most_of_one=10)
    for number in range(10):
        assert seen.spend_nonce("greedy", str(number), 0.0)
    with pytest.raises(RefusedError) as caught:
        seen.spend_nonce("greedy", "one more", 1.0)
    assert caught.value.reason is Reason.BUSY
    assert caught.value.retry_after_s == GENERATION_S - 1
    for device in range(40):
        assert seen.spend_nonce(f"device{device}", "n", 1.0)
    with pytest.raises(RefusedError):
        seen.spend_nonce("one too many", "n", 1.0)
    assert len(seen) == 50
    assert seen.spend_nonce("one too many", "n", GENERATION_S + 1)
    assert len(seen) <= 100
