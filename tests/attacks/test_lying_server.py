"""A server that lies is caught by the device it lies to: each lie by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from emberfleet.agent.agent import Outcome
from emberfleet.agent.rounds.checks import Check
from emberfleet.core.messages import WorkReply, device_id_of
from emberfleet.core.offers import RoundOffer, RoundTerms
from emberfleet.core.sealing import SealingKey
from emberfleet.core.secure.agreement import MaskKey
from emberfleet.core.secure.answers import Confirmations, Survivors
from emberfleet.core.secure.messages import Advert, Mailbox, Roster
from emberfleet.core.signing import SigningKey
from emberfleet.server.storage.database import Database
from tests.attacks.lying import VICTIM, LyingTransport, lied_to, server_key, turn_of_the_victim
from tests.faults.marked_fleet import MarkedFleet

Scene = Callable[[MarkedFleet], None]


def caught(
    folder: Path, transport: LyingTransport, check: Check, prepare: Scene = lambda _fleet: None
) -> MarkedFleet:
    """The victim leaves its round with these words, and discloses nothing."""
    with lied_to(folder, transport) as fleet:
        prepare(fleet)
        turn = turn_of_the_victim(fleet, transport)
        assert turn.outcome is Outcome.LEFT
        assert check.value in turn.text, turn.text
        assert not transport.sent.get("disclosure")
    return fleet


def other_member(roster: Roster, fleet: MarkedFleet) -> int:
    return next(place for place, member in enumerate(roster.members) if member.device_id != fleet.ids[VICTIM])


def test_a_server_in_the_middle_that_swaps_a_neighbours_keys_for_its_own(tmp_path: Path) -> None:
    scene: list[MarkedFleet] = []
    transport = LyingTransport()

    def swap(data: bytes) -> bytes:
        roster = Roster.decode(data)
        place = other_member(roster, scene[0])
        adverts = list(roster.members)
        adverts[place] = replace(
            adverts[place], mask_key=MaskKey.generate().public, sealing_key=SealingKey.generate().public
        )
        return Roster.of(roster.round_id, roster.terms_digest, adverts).encode()

    transport.lies["roster"] = swap
    caught(tmp_path / "fleet", transport, Check.NEIGHBOUR_SIGNATURE, scene.append)
    assert "shares" not in transport.sent


def test_a_server_in_the_middle_that_signs_a_neighbours_advert_with_a_key_of_its_own(tmp_path: Path) -> None:
    scene: list[MarkedFleet] = []
    transport = LyingTransport()

    def swap(data: bytes) -> bytes:
        roster = Roster.decode(data)
        place = other_member(roster, scene[0])
        adverts, own = list(roster.members), SigningKey.generate()
        made = Advert.sign(
            own,
            MaskKey.generate(),
            SealingKey.generate().public,
            bytes(32),
            roster.round_id,
            roster.terms_digest,
        )
        adverts[place] = replace(made, device_id=adverts[place].device_id)
        return Roster.of(roster.round_id, roster.terms_digest, adverts).encode()

    transport.lies["roster"] = swap
    caught(tmp_path / "fleet", transport, Check.SWAPPED_KEY, scene.append)


def test_a_roster_in_which_the_devices_own_key_was_swapped(tmp_path: Path) -> None:
    scene: list[MarkedFleet] = []
    transport = LyingTransport()

    def swap(data: bytes) -> bytes:
        roster = Roster.decode(data)
        place = roster.position_of(scene[0].ids[VICTIM])
        assert place is not None
        adverts = list(roster.members)
        adverts[place] = replace(adverts[place], mask_key=MaskKey.generate().public)
        return Roster.of(roster.round_id, roster.terms_digest, adverts).encode()

    transport.lies["roster"] = swap
    caught(tmp_path / "fleet", transport, Check.OWN_ADVERT, scene.append)


def test_a_cohort_cut_down_to_one_victim_in_the_roster(tmp_path: Path) -> None:
    scene: list[MarkedFleet] = []
    transport = LyingTransport()

    def cut(data: bytes) -> bytes:
        roster = Roster.decode(data)
        alone = [member for member in roster.members if member.device_id == scene[0].ids[VICTIM]]
        return Roster.of(roster.round_id, roster.terms_digest, alone).encode()

    transport.lies["roster"] = cut
    caught(tmp_path / "fleet", transport, Check.TOO_FEW_MEMBERS, scene.append)


def test_a_group_cut_down_to_one_victim(tmp_path: Path) -> None:
    scene: list[MarkedFleet] = []
    transport = LyingTransport()

    def cut(data: bytes) -> bytes:
        mailbox = Mailbox.decode(data)
        ids = sorted(scene[0].ids)
        return replace(mailbox, participants=(ids.index(scene[0].ids[VICTIM]),)).encode()

    transport.lies["shares"] = cut
    caught(tmp_path / "fleet", transport, Check.TOO_FEW_PARTICIPANTS, scene.append)


def test_survivors_cut_down_to_one_victim(tmp_path: Path) -> None:
    scene: list[MarkedFleet] = []
    transport = LyingTransport()

    def cut(data: bytes) -> bytes:
        survivors = Survivors.decode(data)
        own = sorted(scene[0].ids).index(scene[0].ids[VICTIM])
        others = tuple(place for place in survivors.survivors if place != own)
        return replace(survivors, survivors=(own,), vanished=others).encode()

    transport.lies["survivors"] = cut
    caught(tmp_path / "fleet", transport, Check.TOO_FEW_SURVIVORS, scene.append)


def test_a_server_that_asks_for_both_shares_of_a_device(tmp_path: Path) -> None:
    scene: list[MarkedFleet] = []
    transport = LyingTransport()

    def both(data: bytes) -> bytes:
        survivors = Survivors.decode(data)
        own = sorted(scene[0].ids).index(scene[0].ids[VICTIM])
        other = next(place for place in survivors.survivors if place != own)
        return replace(survivors, vanished=(other,)).encode()

    transport.lies["survivors"] = both
    caught(tmp_path / "fleet", transport, Check.ALIVE_AND_DEAD, scene.append)


def test_survivor_sets_that_differ_between_devices_find_no_quorum(tmp_path: Path) -> None:
    scene: list[MarkedFleet] = []
    transport = LyingTransport(swallowed=frozenset({"confirmation"}))

    def differ(data: bytes) -> bytes:
        survivors = Survivors.decode(data)
        own = sorted(scene[0].ids).index(scene[0].ids[VICTIM])
        other = next(place for place in survivors.survivors if place != own)
        alive = tuple(place for place in survivors.survivors if place != other)
        return replace(survivors, survivors=alive, vanished=(other,)).encode()

    transport.lies["survivors"] = differ
    caught(tmp_path / "fleet", transport, Check.NO_QUORUM, scene.append)
    assert len(transport.sent["confirmation"]) == 1


def test_a_server_that_shows_too_few_confirmations(tmp_path: Path) -> None:
    def few(data: bytes) -> bytes:
        return Confirmations(Confirmations.decode(data).signatures[:2]).encode()

    caught(tmp_path / "fleet", LyingTransport({"confirmations": few}), Check.NO_QUORUM)


def changed_offer(
    change: Callable[[RoundOffer], RoundOffer], scene: list[MarkedFleet]
) -> Callable[[bytes], bytes]:
    """Offers that the server changes and signs again, with its own key."""

    def lie(data: bytes) -> bytes:
        reply = WorkReply.decode(data)
        if reply.offer is None:
            return data
        key = server_key(scene[0])
        offer = change(RoundOffer.open(reply.offer, key.verify_key.raw))
        return replace(reply, offer=offer.sign(key)).encode()

    return lie


def test_an_offer_that_would_sum_one_update_alone(tmp_path: Path) -> None:
    scene: list[MarkedFleet] = []

    def lone(offer: RoundOffer) -> RoundOffer:
        assert offer.terms.secure is not None
        secure = replace(offer.terms.secure, minimum=1)
        return replace(offer, terms=replace(offer.terms, secure=secure))

    transport = LyingTransport({"work": changed_offer(lone, scene)})
    caught(tmp_path / "fleet", transport, Check.BELOW_FLOOR, scene.append)
    assert "keys" not in transport.sent


def test_an_offer_on_a_model_that_is_not_the_published_one(tmp_path: Path) -> None:
    scene: list[MarkedFleet] = []

    def other(offer: RoundOffer) -> RoundOffer:
        model = replace(offer.terms.model, digest="0" * 64)
        return replace(offer, terms=replace(offer.terms, model=model))

    transport = LyingTransport({"work": changed_offer(other, scene)})
    caught(tmp_path / "fleet", transport, Check.OTHER_MODEL, scene.append)


def test_terms_that_differ_between_devices(tmp_path: Path) -> None:
    scene: list[MarkedFleet] = []

    def other(offer: RoundOffer) -> RoundOffer:
        return replace(offer, terms=replace(offer.terms, seed=offer.terms.seed + 1))

    transport = LyingTransport({"work": changed_offer(other, scene)}, swallowed=frozenset({"keys"}))
    transport.invented["roster"] = lambda: roster_of_the_others(scene[0], transport)
    caught(tmp_path / "fleet", transport, Check.OTHER_TERMS, scene.append)


def roster_of_the_others(fleet: MarkedFleet, transport: LyingTransport) -> bytes:
    """The victim's advert among adverts for the terms that the others were told."""
    database = Database.in_file(fleet.root / "server" / "fleet.db")
    try:
        row = database.rounds()[-1]
        stored = [message.body for message in database.messages(row.id) if message.kind == "keys"]
    finally:
        database.close()
    adverts = [Advert.decode(body) for body in (*stored, *transport.sent["keys"])]
    return Roster.of(row.id, RoundTerms.decode(row.terms).digest, adverts).encode()


def test_unmasking_asked_for_twice_finds_a_device_that_is_done_with_the_round(tmp_path: Path) -> None:
    replies: list[bytes] = []
    transport = LyingTransport()

    def again(data: bytes) -> bytes:
        reply = WorkReply.decode(data)
        if reply.offer is not None:
            replies.append(data)
        return replies[0] if replies else data

    transport.lies["work"] = again
    with lied_to(tmp_path / "fleet", transport) as fleet:
        first = turn_of_the_victim(fleet, transport)
        assert first.outcome is Outcome.SENT
        second = turn_of_the_victim(fleet, transport)
        assert second.outcome is Outcome.LEFT
        assert len(transport.sent["disclosure"]) == 1
        assert not (fleet.root / f"device{VICTIM}" / "round.json").exists()


def test_a_device_id_is_the_hash_of_its_key_and_cannot_be_chosen() -> None:
    key = SigningKey.generate()
    made = Advert.sign(key, MaskKey.generate(), SealingKey.generate().public, bytes(32), "5e" * 16, "ab" * 32)
    assert made.device_id == device_id_of(key.verify_key.raw)
    assert not replace(made, device_id="0" * 32).names_itself


@pytest.mark.parametrize("name", ["roster", "shares", "survivors", "confirmations"])
def test_an_answer_that_is_not_of_the_protocol_makes_the_device_leave(tmp_path: Path, name: str) -> None:
    transport = LyingTransport({name: lambda _data: b"[" * 400})
    with lied_to(tmp_path / "fleet", transport) as fleet:
        turn = turn_of_the_victim(fleet, transport)
        assert turn.outcome is Outcome.LEFT
        assert "JSON" in turn.text
