"""A server that lies is caught by the device it lies to: each lie by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from emberfleet.agent.agent import Outcome
from emberfleet.agent.rounds.checks import Check
from emberfleet.core.messages import WorkReply, device_id_of
from emberfleet.core.offers import RoundOffer, RoundTerms, SecureTerms
from emberfleet.core.sealing import SealingKey
from emberfleet.core.secure.agreement import MaskKey
from emberfleet.core.secure.answers import Confirmations, Survivors
from emberfleet.core.secure.messages import Advert, Mailbox, Roster
from emberfleet.core.signing import SigningKey
from emberfleet.server.storage.database import Database
from tests.attacks.lying import VICTIM, LyingTransport, lied_to, server_key, turn_of_the_victim
from tests.faults.marked_fleet import MarkedFleet

Lie = Callable[[bytes, MarkedFleet], bytes]


def caught(
    folder: Path, lies: dict[str, Lie], check: Check, swallowed: tuple[str, ...] = ()
) -> LyingTransport:
    """The victim leaves its round with the words of the check, and discloses nothing."""
    transport = LyingTransport(swallowed=frozenset(swallowed))
    with lied_to(folder) as fleet:
        for name, lie in lies.items():
            transport.lies[name] = lambda data, lie=lie: lie(data, fleet)  # type: ignore[misc]
        turn = turn_of_the_victim(fleet, transport)
        assert turn.outcome is Outcome.LEFT
        assert check.value in turn.text, turn.text
        assert not transport.sent.get("disclosure")
    return transport


def own_position(fleet: MarkedFleet) -> int:
    """The victim's: all devices are in the roster, by ascending id."""
    return sorted(fleet.ids).index(fleet.ids[VICTIM])


def in_roster(change: Callable[[list[Advert], int, Roster], list[Advert]]) -> Lie:
    """Another list of members, from the true one and the victim's position."""

    def lie(data: bytes, fleet: MarkedFleet) -> bytes:
        roster = Roster.decode(data)
        members = change(list(roster.members), own_position(fleet), roster)
        return Roster.of(roster.round_id, roster.terms_digest, members).encode()

    return lie


def keys_of_a_neighbour(members: list[Advert], own: int, _roster: Roster) -> list[Advert]:
    mask_key, sealing_key = MaskKey.generate().public, SealingKey.generate().public
    members[own - 1] = replace(members[own - 1], mask_key=mask_key, sealing_key=sealing_key)
    return members


def advert_signed_by_the_server(members: list[Advert], own: int, roster: Roster) -> list[Advert]:
    made = Advert.sign(
        SigningKey.generate(), MaskKey.generate(), SealingKey.generate().public, bytes(32),
        roster.round_id, roster.terms_digest,
    )  # fmt: skip
    members[own - 1] = replace(made, device_id=members[own - 1].device_id)
    return members


def own_key(members: list[Advert], own: int, _roster: Roster) -> list[Advert]:
    members[own] = replace(members[own], mask_key=MaskKey.generate().public)
    return members


def the_victim_alone(members: list[Advert], own: int, _roster: Roster) -> list[Advert]:
    return [members[own]]


@pytest.mark.parametrize(
    ("change", "check"),
    [
        pytest.param(keys_of_a_neighbour, Check.NEIGHBOUR_SIGNATURE, id="server-in-the-middle-swaps-keys"),
        pytest.param(advert_signed_by_the_server, Check.SWAPPED_KEY, id="server-in-the-middle-signs-itself"),
        pytest.param(own_key, Check.OWN_ADVERT, id="own-key-swapped"),
        pytest.param(the_victim_alone, Check.TOO_FEW_MEMBERS, id="cohort-cut-down-to-one-victim"),
    ],
)
def test_a_lie_in_the_roster_is_caught_before_any_share_is_sent(
    tmp_path: Path, change: Callable[[list[Advert], int, Roster], list[Advert]], check: Check
) -> None:
    transport = caught(tmp_path / "fleet", {"roster": in_roster(change)}, check)
    assert "shares" not in transport.sent


def test_a_group_cut_down_to_one_victim(tmp_path: Path) -> None:
    def cut(data: bytes, fleet: MarkedFleet) -> bytes:
        return replace(Mailbox.decode(data), participants=(own_position(fleet),)).encode()

    caught(tmp_path / "fleet", {"shares": cut}, Check.TOO_FEW_PARTICIPANTS)


def in_survivors(change: Callable[[Survivors, int, tuple[int, ...]], Survivors]) -> Lie:
    """Another set, from the true one, the victim's position and those of the others."""

    def lie(data: bytes, fleet: MarkedFleet) -> bytes:
        survivors, own = Survivors.decode(data), own_position(fleet)
        others = tuple(place for place in survivors.survivors if place != own)
        return change(survivors, own, others).encode()

    return lie


def survivors_without_one(survivors: Survivors, own: int, others: tuple[int, ...]) -> Survivors:
    return replace(survivors, survivors=tuple(sorted((own, *others[1:]))), vanished=others[:1])


def test_survivors_cut_down_to_one_victim(tmp_path: Path) -> None:
    lie = in_survivors(lambda true, own, others: replace(true, survivors=(own,), vanished=others))
    transport = caught(tmp_path / "fleet", {"survivors": lie}, Check.TOO_FEW_SURVIVORS)
    assert "confirmation" not in transport.sent


def test_a_server_that_asks_for_both_shares_of_a_device(tmp_path: Path) -> None:
    lie = in_survivors(lambda true, _own, others: replace(true, vanished=others[:1]))
    transport = caught(tmp_path / "fleet", {"survivors": lie}, Check.ALIVE_AND_DEAD)
    assert "confirmation" not in transport.sent


def test_survivor_sets_that_differ_between_devices_find_no_quorum(tmp_path: Path) -> None:
    lies = {"survivors": in_survivors(survivors_without_one)}
    transport = caught(tmp_path / "fleet", lies, Check.NO_QUORUM, swallowed=("confirmation",))
    assert len(transport.sent["confirmation"]) == 1


def test_a_server_that_shows_too_few_confirmations(tmp_path: Path) -> None:
    def few(data: bytes, _fleet: MarkedFleet) -> bytes:
        return Confirmations(Confirmations.decode(data).signatures[:2]).encode()

    caught(tmp_path / "fleet", {"confirmations": few}, Check.NO_QUORUM)


def in_offer(change: Callable[[RoundTerms], RoundTerms]) -> Lie:
    """An offer of other terms, signed again: the server has the key."""

    def lie(data: bytes, fleet: MarkedFleet) -> bytes:
        reply = WorkReply.decode(data)
        if reply.offer is None:
            return data
        key = server_key(fleet)
        offer = RoundOffer.open(reply.offer, key.verify_key.raw)
        return replace(reply, offer=replace(offer, terms=change(offer.terms)).sign(key)).encode()

    return lie


def with_secure(terms: RoundTerms, **changes: float) -> RoundTerms:
    assert isinstance(terms.secure, SecureTerms)
    return replace(terms, secure=replace(terms.secure, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "check"),
    [
        pytest.param(lambda terms: with_secure(terms, minimum=1), Check.BELOW_FLOOR, id="one-update-alone"),
        pytest.param(
            lambda terms: with_secure(terms, corrupt_share=0.0), Check.LAX_TERMS, id="nobody-is-corrupt"
        ),
        pytest.param(
            lambda terms: replace(terms, model=replace(terms.model, digest="0" * 64)),
            Check.OTHER_MODEL,
            id="model-that-is-not-published",
        ),
        pytest.param(
            lambda terms: replace(terms, secure=None, round_key=SealingKey.generate().public),
            Check.SEALED_ROUND,
            id="secure-round-called-sealed",
        ),
    ],
)
def test_an_offer_of_terms_that_harm_the_device_is_not_taken(
    tmp_path: Path, change: Callable[[RoundTerms], RoundTerms], check: Check
) -> None:
    transport = caught(tmp_path / "fleet", {"work": in_offer(change)}, check)
    assert not {"keys", "update"} & transport.sent.keys()


def test_terms_that_differ_between_devices(tmp_path: Path) -> None:
    transport = LyingTransport(swallowed=frozenset({"keys"}))
    other = in_offer(lambda terms: replace(terms, seed=terms.seed + 1))
    with lied_to(tmp_path / "fleet") as fleet:
        transport.lies["work"] = lambda data: other(data, fleet)
        transport.invented["roster"] = lambda: roster_of_the_others(fleet, transport)
        turn = turn_of_the_victim(fleet, transport)
    assert turn.outcome is Outcome.LEFT
    assert Check.OTHER_TERMS.value in turn.text


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

    def again(data: bytes) -> bytes:
        if WorkReply.decode(data).offer is not None:
            replies.append(data)
        return replies[0] if replies else data

    transport = LyingTransport({"work": again})
    with lied_to(tmp_path / "fleet") as fleet:
        assert turn_of_the_victim(fleet, transport).outcome is Outcome.SENT
        second = turn_of_the_victim(fleet, transport)
        assert Check.ROUND_IS_OVER.value in second.text or Check.OTHER_MODEL.value in second.text
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
    with lied_to(tmp_path / "fleet") as fleet:
        turn = turn_of_the_victim(fleet, transport)
    assert turn.outcome is Outcome.LEFT
    assert "JSON" in turn.text
