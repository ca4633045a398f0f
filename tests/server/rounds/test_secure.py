"""The transitions of a secure round: what each phase takes, what it refuses, and when it ends."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from emberfleet.core.errors import EmberError, FormatError, SignatureError
from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.secure.agreement import MaskKey
from emberfleet.core.secure.answers import Disclosure
from emberfleet.core.signing import SigningKey
from emberfleet.server.rounds.sharing import mailbox_of
from emberfleet.server.rounds.state import Phase
from emberfleet.server.rounds.steps import Kind, accept, advance, due_at
from tests.server.rounds.devices import Device, terms_of
from tests.server.rounds.secure_round import PLAN, Play, with_plan


def refused(play: Play, act: Callable[[], None]) -> Reason:
    before = play.round
    with pytest.raises(RefusedError) as caught:
        act()
    assert play.round is before
    return caught.value.reason


def test_when_all_do_their_part_no_phase_waits_for_its_deadline() -> None:
    play = Play().until(Phase.APPLY)
    assert play.now == 0
    assert list(play.round.entered) == [
        Phase.OPEN, Phase.KEYS, Phase.SHARES, Phase.COLLECT, Phase.CONFIRM, Phase.UNMASK, Phase.APPLY,
    ]  # fmt: skip
    assert len(play.round.accepted) == 5


@pytest.mark.parametrize(
    ("phase", "acting", "after"),
    [
        (Phase.KEYS, 2, Phase.FAILED),
        (Phase.KEYS, 3, Phase.SHARES),
        (Phase.SHARES, 2, Phase.FAILED),
        (Phase.SHARES, 4, Phase.COLLECT),
        (Phase.COLLECT, 3, Phase.FAILED),
        (Phase.COLLECT, 4, Phase.CONFIRM),
        (Phase.CONFIRM, 2, Phase.FAILED),
        (Phase.CONFIRM, 3, Phase.UNMASK),
        (Phase.UNMASK, 3, Phase.FAILED),
        (Phase.UNMASK, 4, Phase.APPLY),
    ],
)
def test_a_deadline_is_kept_by_those_who_are_enough(phase: Phase, acting: int, after: Phase) -> None:
    play = Play().until(phase)
    acts = {
        Phase.KEYS: play.advert,
        Phase.SHARES: play.shares,
        Phase.COLLECT: play.update,
        Phase.CONFIRM: play.confirm,
        Phase.UNMASK: play.disclose,
    }
    for device in play.devices[:acting]:
        acts[phase](device)
        if play.phase is not phase:
            assert phase is Phase.UNMASK
            break
    if play.phase is phase:
        due = play.round.deadline_at
        play.round = replace(play.round, heard=dict.fromkeys(play.round.cohort, due))
        assert advance(play.round, due - 0.001) is play.round
        play.wait(due - play.now)
    assert play.phase is after
    assert bool(play.round.failure) == (after is Phase.FAILED)


def test_every_phase_names_the_moment_that_ends_it() -> None:
    play = Play()
    seen = {}
    while play.phase is not Phase.APPLY:
        seen[play.phase] = due_at(play.round)
        order = [Phase.KEYS, Phase.SHARES, Phase.COLLECT, Phase.CONFIRM, Phase.UNMASK, Phase.APPLY]
        play.until(order[order.index(play.phase) + 1])
    assert seen == {
        Phase.KEYS: 30, Phase.SHARES: 30, Phase.COLLECT: 10, Phase.CONFIRM: 30, Phase.UNMASK: 30,
    }  # fmt: skip
    assert due_at(play.round) is None


def test_a_device_that_gives_up_is_not_waited_for() -> None:
    play = Play()
    for device in play.devices[:4]:
        play.advert(device)
    play.decline(play.devices[4])
    assert play.at(Phase.SHARES)
    for device in play.devices[:3]:
        play.shares(device)
    play.decline(play.devices[3])
    assert play.at(Phase.COLLECT)
    assert play.round.known_group.participants == (0, 1, 2)
    play.update(play.devices[0])
    assert refused(play, lambda: play.decline(play.devices[0])) is Reason.ALREADY_ACCEPTED


def test_a_round_waits_for_the_silent_where_those_who_came_are_too_few_to_unmask() -> None:
    play = Play().until(Phase.COLLECT)
    for device in play.devices[:3]:
        play.update(device)
    play.wait(50)
    assert play.at(Phase.COLLECT)
    assert play.round.silent(play.now)
    play.update(play.devices[3])
    assert play.at(Phase.CONFIRM)
    assert play.round.known_survivors.vanished == (4,)


def test_a_round_goes_on_without_the_silent_where_enough_came() -> None:
    play = Play().until(Phase.COLLECT)
    for device in play.devices[:4]:
        play.update(device)
    play.wait(9)
    assert play.at(Phase.COLLECT)
    play.wait(1.1)
    assert play.at(Phase.CONFIRM)


def test_a_round_without_enough_updates_fails_when_the_rest_gave_up() -> None:
    play = Play().until(Phase.COLLECT)
    for device in play.devices[:2]:
        play.update(device)
    for device in play.devices[2:]:
        play.decline(device)
    assert play.at(Phase.FAILED)
    assert play.round.failure == "2 updates came from 5 devices, expected 3"


def test_only_the_drawn_may_speak() -> None:
    play = Play()
    stranger = Device(99, play.terms)
    assert refused(play, lambda: play.advert(stranger)) is Reason.NOT_IN_COHORT


def test_a_message_of_each_kind_counts_once_and_in_its_phase() -> None:
    play = Play()
    first, *_ = play.devices
    kinds: dict[Phase, tuple[Kind, Callable[[], None], Callable[[], bytes]]] = {
        Phase.KEYS: (Kind.ADVERT, lambda: play.advert(first), lambda: first.advert().encode()),
        Phase.SHARES: (
            Kind.SHARES,
            lambda: play.shares(first),
            lambda: first.shares(play.round.known_graph.roster.encode()).encode(),
        ),
        Phase.COLLECT: (Kind.UPDATE, lambda: play.update(first), lambda: first.header().encode()),
        Phase.CONFIRM: (
            Kind.CONFIRMATION,
            lambda: play.confirm(first),
            lambda: first.confirmation(play.round.known_survivors.encode()).encode(),
        ),
        Phase.UNMASK: (Kind.DISCLOSURE, lambda: play.disclose(first), lambda: first.disclosure().encode()),
    }
    sent: list[tuple[Kind, bytes]] = []
    for phase, (kind, act, body) in kinds.items():
        play.until(phase)
        act()
        sent.append((kind, body()))
        for known, data in sent:

            def again(known: Kind = known, data: bytes = data) -> None:
                accept(play.round, known, first.id, data, play.now)

            assert refused(play, again) is (Reason.ALREADY_ACCEPTED if known is kind else Reason.LATE)


def test_what_comes_before_its_phase_is_refused() -> None:
    play, other = Play(), Play().until(Phase.UNMASK)
    mine, theirs = play.devices[0], other.devices[0]
    bodies = {
        Kind.SHARES: theirs.shares(other.round.known_graph.roster.encode()).encode(),
        Kind.UPDATE: theirs.header().encode(),
        Kind.CONFIRMATION: theirs.confirmation(other.round.known_survivors.encode()).encode(),
        Kind.DISCLOSURE: theirs.disclosure().encode(),
    }
    for kind, body in bodies.items():

        def early(kind: Kind = kind, body: bytes = body) -> None:
            accept(play.round, kind, mine.id, body, 0.0)

        assert refused(play, early) is Reason.OTHER_ROUND


SMALL_ORDER = bytes(32)


def bad_adverts(device: Device, other: Device) -> dict[str, tuple[bytes, type[EmberError]]]:
    good = device.advert()
    elsewhere = Device(device.number, terms_of(PLAN, "ee" * 16))
    weak = replace(good, mask_key=SMALL_ORDER)
    return {
        "another device's": (other.advert().encode(), RefusedError),
        "an id that is not the key's": (
            replace(good, public_key=other.advert().public_key).encode(),
            RefusedError,
        ),
        "a changed key": (replace(good, mask_key=MaskKey.generate().public).encode(), SignatureError),
        "another round's": (elsewhere.advert().encode(), SignatureError),
        "a key of small order, not signed": (weak.encode(), SignatureError),
        "a key too short": (good.encode().replace(_text(good.mask_key), b"AAAA"), FormatError),
        "nothing": (b"", FormatError),
    }


def _text(data: bytes) -> bytes:
    return base64.b64encode(data)


@pytest.mark.parametrize("name", list(bad_adverts(*Play().devices[:2])))
def test_a_bad_advert_is_refused(name: str) -> None:
    play = Play()
    body, error = bad_adverts(*play.devices[:2])[name]
    with pytest.raises(error):
        play.send(play.devices[0], Kind.ADVERT, body)
    assert not play.round.adverts


def test_a_key_with_which_every_secret_is_the_same_is_refused() -> None:
    play = Play()
    device = play.devices[0]
    device.mask_key.public = SMALL_ORDER  # type: ignore[misc]
    with pytest.raises(FormatError, match="small order"):
        play.advert(device)


def test_bad_shares_are_refused() -> None:
    play = Play().until(Phase.SHARES)
    device = play.devices[0]
    good = device.shares(play.round.known_graph.roster.encode())
    assert len(good.shares) == 4
    for bad in (
        replace(good, roster_digest="0" * 64),
        replace(good, shares=good.shares[:-1]),
        replace(good, shares=(replace(good.shares[0], peer=0), *good.shares[1:])),
        replace(good, shares=(*good.shares[:-1], replace(good.shares[-1], sealed=b"short"))),
    ):
        with pytest.raises(FormatError):
            play.send(device, Kind.SHARES, bad.encode())
    assert not play.round.shares


def test_an_update_must_name_this_round_device_model_and_group() -> None:
    play = Play().until(Phase.COLLECT)
    device = play.devices[0]
    device.open_mailbox(mailbox_of(play.round, device.id).encode())
    good = device.header()
    for bad, reason in (
        (replace(good, round_id="e" * 32), Reason.OTHER_ROUND),
        (replace(good, device_id="e" * 32), Reason.MALFORMED),
        (replace(good, model_version=9), Reason.OTHER_MODEL),
        (replace(good, group_digest="0" * 64), Reason.OTHER_ROUND),
    ):

        def act(body: bytes = bad.encode()) -> None:
            play.send(device, Kind.UPDATE, body)

        assert refused(play, act) is reason


def test_who_is_not_in_the_roster_the_group_or_the_sum_is_late() -> None:
    play = Play(count=6, plan=with_plan(cohort=6))
    *chosen, keyless, shareless = play.devices
    play.until(Phase.SHARES, [*chosen, shareless]).until(Phase.COLLECT, chosen)
    assert refused(play, lambda: play.update(keyless)) is Reason.LATE
    assert refused(play, lambda: play.update(shareless)) is Reason.LATE
    with pytest.raises(RefusedError):
        mailbox_of(play.round, shareless.id)


def test_a_vanished_device_can_neither_confirm_nor_disclose() -> None:
    play = Play().until(Phase.COLLECT)
    last = play.devices[-1]
    last.open_mailbox(mailbox_of(play.round, last.id).encode())
    play.until(Phase.CONFIRM, play.devices[:4])
    assert refused(play, lambda: play.confirm(last)) is Reason.LATE
    play.until(Phase.UNMASK, play.devices[:4])
    assert refused(play, lambda: play.disclose(last)) is Reason.LATE


def test_a_confirmation_of_another_set_or_by_another_hand_is_refused() -> None:
    play = Play().until(Phase.CONFIRM)
    device, told = play.devices[0], play.round.known_survivors
    other = replace(told, survivors=told.survivors[:-1], vanished=told.survivors[-1:])
    with pytest.raises(FormatError, match="another set"):
        play.send(device, Kind.CONFIRMATION, device.confirmation(other.encode()).encode())
    device.key = SigningKey.generate()
    with pytest.raises(SignatureError):
        play.confirm(device)
    assert not play.round.confirmations


def test_a_disclosure_gives_the_right_kind_of_share_of_neighbours_alone() -> None:
    play = Play().until(Phase.COLLECT).until(Phase.UNMASK, None)
    device = play.devices[0]
    good = device.disclosure()
    assert len(good.own) == 4
    (peer, share), *rest = good.own
    for bad in (
        replace(good, own=tuple(rest), key=((peer, share),)),
        replace(good, own=((0, share), *good.own)),
        replace(good, survivors_digest="0" * 64),
        replace(good, own=((peer, b"\xff" * 33), *rest)),
    ):
        with pytest.raises(FormatError):
            play.send(device, Kind.DISCLOSURE, bad.encode())
    both = json.loads(good.encode())
    both["key"] = both["own"]
    with pytest.raises(FormatError, match="both kinds"):
        play.send(device, Kind.DISCLOSURE, json.dumps(both).encode())
    play.send(device, Kind.DISCLOSURE, Disclosure(good.survivors_digest, tuple(rest), ()).encode())
    assert len(play.round.disclosures) == 1


def test_a_disclosure_that_comes_while_masks_are_taken_out_is_kept() -> None:
    play = Play().until(Phase.UNMASK)
    for device in play.devices:
        play.disclose(device)
    assert play.at(Phase.APPLY)
    assert len(play.round.disclosures) == 5
    late = Play().until(Phase.UNMASK)
    for device in late.devices[:4]:
        late.disclose(device)
    assert late.at(Phase.APPLY)
    late.now = 31.0
    assert refused(late, lambda: late.disclose(late.devices[4])) is Reason.LATE
