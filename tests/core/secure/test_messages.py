from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.errors import FormatError, SignatureError
from emberfleet.core.sealing import SealingKey
from emberfleet.core.secure.agreement import MaskKey
from emberfleet.core.secure.answers import (
    Confirmation,
    Confirmations,
    Disclosure,
    MaskedHeader,
    MaskedUpdate,
    Survivors,
)
from emberfleet.core.secure.messages import Advert, Mailbox, Roster, SealedShare, SharesMessage
from emberfleet.core.signing import SigningKey

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "secure_messages.json").read_text("utf-8"))
BYTES = {name: base64.b64decode(text) for name, text in GOLDEN["messages"].items()}
ROUND, TERMS = GOLDEN["round_id"], GOLDEN["terms_digest"]
DECODERS: dict[str, Callable[[bytes], Any]] = {
    "advert": Advert.decode,
    "roster": Roster.decode,
    "shares": SharesMessage.decode,
    "mailbox": Mailbox.decode,
    "survivors": Survivors.decode,
    "confirmation": Confirmation.decode,
    "confirmations": Confirmations.decode,
    "disclosure": Disclosure.decode,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
POSITIONS = st.sets(st.integers(0, 99), max_size=20).map(lambda found: tuple(sorted(found)))


def drawn(name: str) -> bytes:
    return hashlib.sha256(f"{name}/0".encode()).digest()


def keys() -> list[SigningKey]:
    return [SigningKey(drawn(f"{name} key")) for name in GOLDEN["names"]]


def paired(size: int) -> st.SearchStrategy[tuple[tuple[int, bytes], ...]]:
    data = st.binary(min_size=size, max_size=size)
    return st.dictionaries(st.integers(0, 99), data, max_size=9).map(
        lambda found: tuple(sorted(found.items()))
    )


SHARES = st.dictionaries(
    st.integers(0, 99),
    st.tuples(st.binary(min_size=114, max_size=114), st.binary(min_size=64, max_size=64)),
    max_size=5,
).map(lambda found: tuple(SealedShare(peer, *parts) for peer, parts in sorted(found.items())))
MESSAGES: dict[str, st.SearchStrategy[Any]] = {
    "shares": st.builds(SharesMessage, DIGESTS, SHARES),
    "mailbox": st.builds(Mailbox, DIGESTS, POSITIONS, SHARES),
    "survivors": st.builds(Survivors, DIGESTS, POSITIONS, POSITIONS),
    "confirmation": st.builds(Confirmation, DIGESTS, st.binary(min_size=64, max_size=64)),
    "confirmations": st.builds(Confirmations, paired(64)),
    "disclosure": st.builds(Disclosure, DIGESTS, paired(33), st.just(())),
}


@pytest.mark.parametrize("name", DECODERS)
def test_golden_bytes_are_read_and_written_as_they_are(name: str) -> None:
    assert DECODERS[name](BYTES[name]).encode() == BYTES[name]


def test_an_advert_made_from_the_same_keys_has_the_golden_bytes() -> None:
    mask, sealing = (drawn(f"{GOLDEN['names'][0]} {kind}") for kind in ("mask", "sealing"))
    golden = Advert.decode(BYTES["advert"])
    mask_key = MaskKey.recover(mask, golden.mask_key)
    own = drawn(f"{GOLDEN['names'][0]} own")
    made = Advert.sign(keys()[0], mask_key, SealingKey(sealing).public, own, ROUND, TERMS)
    assert made.encode() == BYTES["advert"]


def test_golden_digests_and_signatures_hold() -> None:
    roster = Roster.decode(BYTES["roster"])
    assert roster.digest == GOLDEN["roster_digest"]
    for member, key in zip(roster.members, keys(), strict=True):
        member.verify(ROUND, TERMS)
        member.check_keys()
        assert member.names_itself
        assert member.public_key == key.verify_key.raw
    for share in SharesMessage.decode(BYTES["shares"]).shares:
        share.verify(roster.members[0].public_key, ROUND, roster.digest, 0, share.peer)
        made = SealedShare.sign(keys()[0], share.sealed, ROUND, roster.digest, 0, share.peer)
        assert made == share
    for share in Mailbox.decode(BYTES["mailbox"]).shares:
        share.verify(roster.members[share.peer].public_key, ROUND, roster.digest, share.peer, 0)
    survivors = Survivors.decode(BYTES["survivors"])
    assert survivors.digest == GOLDEN["survivors_digest"]
    for position, signature in Confirmations.decode(BYTES["confirmations"]).signatures:
        Confirmation(survivors.digest, signature).verify(roster.members[position].public_key, ROUND)
    assert Confirmation.sign(keys()[0], ROUND, survivors.digest).encode() == BYTES["confirmation"]


def test_a_signature_counts_for_nothing_else() -> None:
    roster = Roster.decode(BYTES["roster"])
    member, share = roster.members[0], SharesMessage.decode(BYTES["shares"]).shares[0]
    confirmation = Confirmation.decode(BYTES["confirmation"])
    other = "0" * 64
    wrong: list[Callable[[], None]] = [
        lambda: member.verify("0" * 32, TERMS),
        lambda: member.verify(ROUND, other),
        lambda: replace(member, commitment=bytes(32)).verify(ROUND, TERMS),
        lambda: replace(member, public_key=roster.members[1].public_key).verify(ROUND, TERMS),
        lambda: replace(member, public_key=b"\xff" * 32).verify(ROUND, TERMS),
        lambda: share.verify(member.public_key, ROUND, other, 0, 1),
        lambda: share.verify(member.public_key, ROUND, roster.digest, 0, 2),
        lambda: share.verify(member.public_key, ROUND, roster.digest, 1, 0),
        lambda: confirmation.verify(member.public_key, "0" * 32),
        lambda: replace(confirmation, survivors_digest=other).verify(member.public_key, ROUND),
        lambda: confirmation.verify(roster.members[1].public_key, ROUND),
    ]
    for case in wrong:
        with pytest.raises(SignatureError):
            case()


@pytest.mark.parametrize("name", ["mask_key", "sealing_key"])
@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31)])
def test_a_key_of_small_order_is_found(name: str, point: bytes) -> None:
    member = replace(Advert.decode(BYTES["advert"]), **{name: point})  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="small order"):
        member.check_keys()


@pytest.mark.parametrize("name", MESSAGES)
@given(data=st.data())
def test_decode_of_encode_is_the_same_message(name: str, data: st.DataObject) -> None:
    message = data.draw(MESSAGES[name])
    assert DECODERS[name](message.encode()) == message


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_raise_nothing_but_a_format_error(name: str, data: bytes) -> None:
    with pytest.raises(FormatError):
        DECODERS[name](data)


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.data())
def test_any_value_anywhere_raises_nothing_but_a_format_error(name: str, data: st.DataObject) -> None:
    holder: Any = {"whole": json.loads(BYTES[name])}
    whole, place = holder, "whole"
    while isinstance(holder[place], dict | list) and holder[place] and data.draw(st.booleans()):
        holder = holder[place]
        options = sorted(holder) if isinstance(holder, dict) else range(len(holder))
        place = data.draw(st.sampled_from(list(options)))
    holder[place] = data.draw(JSON)
    try:
        DECODERS[name](json.dumps(whole["whole"]).encode())
    except FormatError:
        return


@pytest.mark.parametrize("name", DECODERS)
def test_a_missing_an_extra_and_a_null_field_are_refused(name: str) -> None:
    written = json.loads(BYTES[name])
    for field in written:
        for bad in ({}, {field: None}):
            kept = {key: value for key, value in written.items() if key != field}
            with pytest.raises(FormatError):
                DECODERS[name](json.dumps({**kept, **bad}).encode())
    with pytest.raises(FormatError, match="not part of this message"):
        DECODERS[name](json.dumps({**written, "surplus": 1}).encode())


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("roster", "members"),
        ("shares", "shares"),
        ("mailbox", "shares"),
        ("mailbox", "participants"),
        ("survivors", "survivors"),
        ("confirmations", "confirmations"),
    ],
)
def test_lists_that_do_not_ascend_or_hold_one_twice_are_refused(name: str, field: str) -> None:
    written = json.loads(BYTES[name])
    entries = written[field]
    for wrong in (entries[::-1], [entries[0], *entries]):
        with pytest.raises(FormatError, match="ascend"):
            DECODERS[name](json.dumps({**written, field: wrong}).encode())


@pytest.mark.parametrize("name", ["shares", "mailbox", "survivors", "confirmations", "disclosure"])
def test_positions_beyond_the_roster_are_refused(name: str) -> None:
    decode: Any = DECODERS[name]
    assert decode(BYTES[name], 3)
    with pytest.raises(FormatError):
        decode(BYTES[name], 1)


@pytest.mark.parametrize("name", ["roster", "shares", "mailbox", "survivors", "confirmations", "disclosure"])
def test_a_message_larger_than_its_members_can_make_it_is_refused_before_it_is_parsed(name: str) -> None:
    decode: Any = DECODERS[name]
    with pytest.raises(FormatError, match="bytes, expected at most"):
        decode(BYTES[name] + b" " * 8192, 3)


def test_the_largest_round_fits_its_limits() -> None:
    members, member = 10_000, Advert.decode(BYTES["advert"])
    ids = [f"{index:032x}" for index in range(members)]
    roster = Roster.of(ROUND, TERMS, [replace(member, device_id=device_id) for device_id in ids])
    assert Roster.decode(roster.data).ids == tuple(ids)
    assert len(roster.data) < 4 << 20
    everybody = tuple(range(members))
    share = SharesMessage.decode(BYTES["shares"]).shares[0]
    full = Mailbox(roster.digest, everybody, tuple(replace(share, peer=peer) for peer in everybody))
    assert Mailbox.decode(full.encode(), members) == full
    assert Survivors.decode(Survivors(TERMS, everybody, ()).encode()).survivors == everybody
    signatures = tuple((position, bytes(64)) for position in everybody)
    assert Confirmations.decode(Confirmations(signatures).encode()).signatures == signatures
    shares = tuple((position, bytes(33)) for position in everybody)
    assert Disclosure.decode(Disclosure(TERMS, shares, ()).encode()).own == shares
    with pytest.raises(FormatError):
        Survivors.decode(Survivors(TERMS, (*everybody, members), ()).encode())


def test_a_roster_is_the_same_whatever_order_adverts_came_in_and_finds_its_members() -> None:
    roster = Roster.decode(BYTES["roster"])
    assert Roster.of(ROUND, TERMS, roster.members[::-1]).data == BYTES["roster"]
    assert [roster.position_of(member.device_id) for member in roster.members] == [0, 1, 2]
    assert roster.position_of("0" * 32) is None
    assert roster.position_of("f" * 32) is None


def test_other_bytes_for_the_same_members_are_another_roster() -> None:
    spaced = json.dumps(json.loads(BYTES["roster"])).encode()
    assert Roster.decode(spaced).members == Roster.decode(BYTES["roster"]).members
    assert Roster.decode(spaced).digest != Roster.decode(BYTES["roster"]).digest


def test_a_disclosure_with_both_shares_of_one_device_is_refused() -> None:
    both = Disclosure(TERMS, ((1, bytes(33)), (2, bytes(33))), ((2, bytes(33)),))
    with pytest.raises(FormatError, match="both kinds of share of position 2"):
        Disclosure.decode(both.encode())


def test_a_disclosure_shows_no_share() -> None:
    assert repr(Disclosure("d" * 64, ((1, b"s" * 33),), ())) == f"Disclosure(survivors_digest='{'d' * 64}')"


def test_a_masked_update_comes_apart_without_a_copy() -> None:
    body = BYTES["masked update"]
    update = MaskedUpdate.decode(memoryview(body))
    assert update.header == MaskedHeader(
        ROUND, Roster.decode(BYTES["roster"]).ids[0], 4, GOLDEN["group_digest"]
    )
    assert update.packed.obj is body
    assert len(update.packed) == 40
    assert MaskedUpdate.join(update.header, bytes(update.packed)) == body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"EFM1",
        b"EFM2\0\0\0\1{",
        b"EFU1" + BYTES["masked update"][4:],
        b"EFM1\xff\xff\xff\xff{}",
        b"EFM1\0\0\0\0",
        b"EFM1\0\0\0\x09{}",
        b"EFM1\0\0\0\2{}",
        b"EFM1" + (8193).to_bytes(4, "big") + b" " * 9000,
    ],
)
def test_a_body_that_is_no_masked_update_is_refused(body: bytes) -> None:
    with pytest.raises(FormatError):
        MaskedUpdate.decode(body)


@given(data=st.binary(max_size=300), cut=st.integers(0, 300))
def test_any_body_raises_nothing_but_a_format_error(data: bytes, cut: int) -> None:
    for body in (data, b"EFM1" + data, BYTES["masked update"][:cut] + data):
        try:
            MaskedUpdate.decode(body)
        except FormatError:
            continue
