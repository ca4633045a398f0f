"""A round that is rebuilt from its row and its messages is the round that it was, at every moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import StorageError
from emberfleet.core.messages import RefusedError
from emberfleet.core.offers import Mode
from emberfleet.server.rounds.disclosing import wait_for_more
from emberfleet.server.rounds.opening import open_round, start
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.rounds.rebuilding import rebuild, row_of
from emberfleet.server.rounds.state import Phase, Round
from emberfleet.server.rounds.steps import Kind, accept, advance
from emberfleet.server.storage.database import StoredMessage
from tests.server.rounds.devices import device_ids, sealed_header, terms_of
from tests.server.rounds.secure_round import Play


def check(play: Play) -> None:
    """What is stored now is all that is known."""
    if play.round.phase is Phase.FAILED:
        return
    found = rebuild(play.row, play.messages, now=play.now + 1000)
    assert found == play.round
    assert set(found.heard) == set(play.round.cohort)
    if play.round.group is not None:
        assert found.known_group.digest == play.round.known_group.digest


def test_at_every_step_of_a_round_it_is_the_same() -> None:
    play = Play(stored=check)
    check(play)
    play.until(Phase.APPLY)
    assert len(play.messages) >= 5 + 5 + 5 + 5 + 4


Move = tuple[str, int, float]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("act", "act", "act", "decline", "wait")), st.integers(0, 4),
                          st.floats(0, 40)), min_size=5, max_size=40))  # fmt: skip
def test_whatever_happens_it_is_the_same(moves: list[Move]) -> None:
    play = Play(stored=check)
    acts: dict[Phase, Callable[..., None]] = {
        Phase.KEYS: play.advert,
        Phase.SHARES: play.shares,
        Phase.COLLECT: play.update,
        Phase.CONFIRM: play.confirm,
        Phase.UNMASK: play.disclose,
        Phase.APPLY: play.disclose,
    }
    for kind, number, pause in moves:
        if play.round.phase not in acts:
            break
        device, graph = play.devices[number], play.round.graph
        if kind == "act" and graph is not None and graph.roster.position_of(device.id) is None:
            continue
        try:
            if kind == "act":
                acts[play.round.phase](device)
            elif kind == "decline":
                if (device.id, Kind.DECLINE) not in {(m.device_id, m.kind) for m in play.messages}:
                    play.decline(device)
            else:
                play.wait(pause)
        except RefusedError:
            continue


def test_messages_that_came_after_time_moved_the_round_on_find_their_phase() -> None:
    play = Play()
    for device in play.devices[:4]:
        play.advert(device)
    play.wait(30)
    for device in play.devices[:4]:
        play.shares(device)
    for device in play.devices[1:4]:
        play.update(device)
    play.wait(100)
    check(play)
    assert play.at(Phase.FAILED) or play.at(Phase.CONFIRM)


def test_a_round_that_waits_for_more_shares_is_judged_anew() -> None:
    play = Play().until(Phase.APPLY)
    play.round = wait_for_more(play.round)
    check(play)
    assert rebuild(play.row, play.messages, 0).patient is False


def test_what_was_being_published_is_applied_anew() -> None:
    play = Play().until(Phase.APPLY)
    row = replace(play.row, phase=Phase.PUBLISH.value)
    assert rebuild(row, play.messages, 0) == play.round


def test_an_open_round_is_the_same() -> None:
    plan = RoundPlan(mode=Mode.SEALED, cohort=3)
    opened = open_round(terms_of(plan), plan, 5.0)
    assert rebuild(row_of(opened), [], 9.0) == opened


def test_a_sealed_round_is_the_same() -> None:
    plan = RoundPlan(mode=Mode.SEALED, cohort=3, minimum=2)
    cohort = device_ids(3)
    round_: Round = start(open_round(terms_of(plan), plan, 0.0), cohort, 1.0)
    messages: list[StoredMessage] = []
    for number, device in enumerate(cohort):
        assert rebuild(row_of(round_), messages, 0) == round_
        body = sealed_header(device, samples=number + 1).encode()
        round_ = advance(accept(round_, Kind.UPDATE, device, body, 2.0), 2.0)
        messages.append(StoredMessage(device, Kind.UPDATE.value, number, sha256_hex(body), body, 2.0))
    assert round_.phase is Phase.APPLY
    assert rebuild(row_of(round_), messages, 0) == round_
    assert round_.accepted == dict(zip(cohort, (1, 2, 3), strict=True))


@pytest.mark.parametrize("gone", [Kind.ADVERT, Kind.SHARES, Kind.UPDATE])
def test_a_message_that_is_missing_is_noticed(gone: Kind) -> None:
    play = Play().until(Phase.UNMASK)
    kept = [message for message in play.messages if message.kind != gone or message.sequence % 5]
    assert len(kept) == len(play.messages) - 1
    with pytest.raises(StorageError, match="cannot be continued"):
        rebuild(play.row, kept, 0)
