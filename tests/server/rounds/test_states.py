"""A sealed round's state machine: every transition, with a clock that only the test moves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.errors import RoundError
from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.offers import Mode
from emberfleet.server.rounds.cohort import draw_cohort
from emberfleet.server.rounds.collecting import accept_update, advance, check_upload, drop_device, hear_device
from emberfleet.server.rounds.failed import fail_round
from emberfleet.server.rounds.opening import open_round, start_if_ready
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.rounds.publishing import finish_round
from emberfleet.server.rounds.state import Phase, Round, enter
from tests.server.rounds.devices import device_ids, sealed_header, terms_of

DEVICES = device_ids(6)
PLAN = RoundPlan(
    mode=Mode.SEALED, cohort=4, over_selection=0.5, minimum=2, pool_wait_s=30, deadline_s=100, lease_s=10
)


def opened(plan: RoundPlan = PLAN) -> Round:
    return open_round(terms_of(plan), plan, now=0)


def accept(round_: Round, device: str, samples: int, now: float) -> Round:
    return accept_update(round_, device, sealed_header(device, samples), now)


def collecting(plan: RoundPlan = PLAN) -> Round:
    started = start_if_ready(opened(plan), DEVICES, now=0)
    assert started.phase is Phase.COLLECT
    return started


def reason_of(round_: Round, device: str, now: float) -> Reason:
    with pytest.raises(RefusedError) as caught:
        check_upload(round_, device, now)
    return caught.value.reason


def test_a_round_waits_until_as_many_devices_are_there_as_it_asks() -> None:
    waiting = opened()
    assert start_if_ready(waiting, DEVICES[:5], now=29) is waiting
    started = start_if_ready(waiting, DEVICES, now=29)
    assert set(started.cohort) == set(DEVICES)
    assert started.deadline_at == 129


def test_after_the_wait_those_who_are_there_will_do() -> None:
    waiting = opened()
    assert start_if_ready(waiting, DEVICES[:1], now=30) is waiting
    assert len(start_if_ready(waiting, DEVICES[:2], now=30).cohort) == 2


def test_the_draw_waits_for_the_pool_it_was_promised() -> None:
    waiting = opened(replace(PLAN, pool=6, over_selection=0.0))
    assert start_if_ready(waiting, DEVICES[:5], now=1) is waiting
    assert len(start_if_ready(waiting, DEVICES, now=1).cohort) == 4


def test_the_round_ends_as_soon_as_it_has_the_updates_it_wants() -> None:
    round_ = collecting()
    for device in DEVICES[:3]:
        round_ = accept(round_, device, 1, now=1)
        assert advance(round_, now=1).phase is Phase.COLLECT
    round_ = accept(round_, DEVICES[3], 1, now=1)
    assert advance(round_, now=1).phase is Phase.APPLY


def test_the_round_ends_when_all_are_in_or_dropped() -> None:
    round_ = collecting()
    for device in DEVICES[:2]:
        round_ = accept(round_, device, 1, now=1)
    for device in DEVICES[2:]:
        round_ = drop_device(round_, device, now=2)
    assert advance(round_, now=2).phase is Phase.APPLY
    assert round_.missing == DEVICES[2:]


def test_the_silent_are_dropped_and_those_who_speak_are_not() -> None:
    round_ = hear_device(collecting(), DEVICES[0], now=8)
    assert advance(round_, now=10.5) is round_
    assert set(round_.silent(10.5)) == set(DEVICES[1:])
    assert round_.outstanding(10.5) == [DEVICES[0]]


def test_without_a_lease_silence_is_allowed_until_the_deadline() -> None:
    plan = replace(PLAN, lease_s=0)
    assert not collecting(plan).silent(99)


def test_a_device_dropped_too_early_may_still_send() -> None:
    round_ = hear_device(collecting(), DEVICES[0], now=8)
    round_ = accept(advance(round_, now=10.5), DEVICES[1], 5, now=11)
    round_ = accept(drop_device(round_, DEVICES[2], now=12), DEVICES[2], 1, now=13)
    assert not round_.declined
    assert round_.accepted == {DEVICES[1]: 5, DEVICES[2]: 1}


def test_at_the_deadline_the_minimum_is_enough_and_less_fails() -> None:
    plan = replace(PLAN, lease_s=0)
    one = accept(collecting(plan), DEVICES[0], 1, now=1)
    two = accept(one, DEVICES[1], 1, now=1)
    assert advance(two, now=100).phase is Phase.APPLY
    failed = advance(one, now=100)
    assert failed.phase is Phase.FAILED
    assert failed.failure == "1 updates came from 6 devices, expected 2"


def test_uploads_are_refused_with_their_reason() -> None:
    round_ = accept(collecting(), DEVICES[0], 1, now=1)
    assert reason_of(round_, "stranger", 1) is Reason.NOT_IN_COHORT
    assert reason_of(round_, DEVICES[0], 1) is Reason.ALREADY_ACCEPTED
    assert reason_of(round_, DEVICES[1], 100) is Reason.LATE
    assert reason_of(enter(round_, Phase.APPLY, 1), DEVICES[1], 1) is Reason.LATE
    check_upload(round_, DEVICES[1], 99)


def test_a_transition_from_the_wrong_phase_is_refused() -> None:
    with pytest.raises(RoundError, match="expected publish"):
        finish_round(collecting(), now=1)
    with pytest.raises(RoundError, match="expected open"):
        start_if_ready(collecting(), DEVICES, now=1)
    with pytest.raises(RoundError, match="expected collect"):
        advance(opened(), now=0)
    with pytest.raises(RoundError, match="cannot fail"):
        fail_round(fail_round(collecting(), "why"), "again")


@given(st.permutations(DEVICES), st.integers(1, 6), st.integers(0, 5), st.integers(1, 50))
def test_the_draw_depends_on_who_is_there_and_not_on_who_came_first(
    order: list[str], size: int, seed: int, number: int
) -> None:
    drawn = draw_cohort(order, size, seed, number)
    assert drawn == draw_cohort(DEVICES, size, seed, number)
    assert len(set(drawn)) == size


def test_draws_differ_between_rounds_and_reach_everybody() -> None:
    draws = [draw_cohort(DEVICES, 2, 0, number) for number in range(200)]
    counts = [sum(device in draw for draw in draws) for device in DEVICES]
    assert min(counts) > 40


Move = tuple[str, str, float]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("accept", "drop", "hear", "tick")), st.sampled_from(DEVICES), st.floats(0, 30)
        )
    )
)
def test_whatever_happens_an_update_counts_once_and_a_round_ends_by_its_deadline(moves: list[Move]) -> None:
    round_, now = collecting(), 0.0
    accepted: set[str] = set()
    for kind, device, pause in moves:
        now += pause
        if round_.phase is not Phase.COLLECT:
            break
        try:
            if kind == "accept":
                round_ = accept(round_, device, 1, now)
                assert device not in accepted
                accepted.add(device)
            elif kind == "drop":
                round_ = drop_device(round_, device, now)
            elif kind == "hear":
                round_ = hear_device(round_, device, now)
        except RefusedError:
            assert device in accepted or now >= 100
        round_ = advance(round_, now)
        assert set(round_.accepted) == accepted
        assert not round_.declined & accepted
    if round_.phase is Phase.COLLECT:
        round_ = advance(round_, 100.0)
    assert round_.phase is (Phase.APPLY if len(accepted) >= 2 else Phase.FAILED)


def test_who_sits_out_is_not_drawn_and_not_counted_on() -> None:
    waiting = opened(replace(PLAN, cohort=3, over_selection=0.0))
    assert start_if_ready(waiting, DEVICES[:4], 1, quarantined=DEVICES[2:]) is waiting
    assert set(start_if_ready(waiting, DEVICES[:5], 1, quarantined=DEVICES[:2]).cohort) == set(DEVICES[2:5])
