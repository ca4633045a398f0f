"""Everything a device of a secure round may send wrong: it hears why, and the sum is exact all the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from emberfleet.core.messages import SEAL_INFO, Reason, UpdateHeader, Upload, device_id_of
from emberfleet.core.sealing import SealingKey, seal
from emberfleet.core.secure.agreement import MaskKey
from emberfleet.core.secure.answers import Confirmation, Disclosure, MaskedUpdate
from emberfleet.core.secure.messages import Advert, SealedShare, SharesMessage
from emberfleet.core.secure.shamir import SHARE_BYTES
from emberfleet.core.secure.statements import SHARES_BYTES, seal_shares
from emberfleet.core.signing import SigningKey
from emberfleet.server.api.errors import STATUS
from emberfleet.server.storage.database import Database
from tests.attacks.hostile import held_kib
from tests.attacks.hostile_secure import PHASES, Attack, AttackingTransport, Told, WaitingTransport
from tests.faults.marked_fleet import MarkedFleet, agent_of, marked_plan

DEVICES = 5
GROWTH_KIB = 24 << 10
BEYOND = b"\xff" * SHARE_BYTES


def advert(told: Told, **changes: object) -> bytes:
    """This device's keys, other ones than it has sent, rightly signed."""
    terms = told.offer.terms
    values: dict[str, object] = {
        "key": told.identity.key,
        "mask_key": MaskKey.generate(),
        "sealing_key": SealingKey.generate().public,
        "secret": bytes(32),
        "round_id": terms.round_id,
        "terms_digest": terms.digest,
        **changes,
    }
    return Advert.sign(**values).encode()  # type: ignore[arg-type]


def same_key_twice(told: Told, _body: bytes) -> bytes:
    key = MaskKey.generate()
    return advert(told, mask_key=key, sealing_key=key.public)


def forged(told: Told, body: bytes) -> bytes:
    return replace(Advert.decode(body), commitment=bytes(32)).encode()


def strangers(_told: Told, body: bytes) -> bytes:
    own, key = Advert.decode(body), SigningKey.generate().verify_key.raw
    return replace(own, public_key=key, device_id=device_id_of(key)).encode()


def shares(body: bytes, keep: Callable[[int], bool] = lambda peer: True, **changes: object) -> SharesMessage:
    """The device's shares, or some of them."""
    message = SharesMessage.decode(body)
    kept = tuple(share for share in message.shares if keep(share.peer))
    return replace(message, shares=kept, **changes)  # type: ignore[arg-type]


def share_for(told: Told, receiver: int) -> SealedShare:
    roster, position = told.roster, told.position
    names = (roster.round_id, roster.digest, position, receiver)
    public = roster.members[receiver].sealing_key
    return SealedShare.sign(told.identity.key, seal_shares(public, bytes(SHARES_BYTES), *names), *names)


def for_itself(told: Told, body: bytes) -> bytes:
    own = share_for(told, told.position)
    listed = sorted((*shares(body).shares, own), key=lambda share: share.peer)
    return SharesMessage(told.roster.digest, tuple(listed)).encode()


def other_shares(told: Told, body: bytes) -> bytes:
    made = tuple(share_for(told, share.peer) for share in shares(body).shares)
    return SharesMessage(told.roster.digest, made).encode()


def header(body: bytes, **changes: object) -> bytes:
    """The masked update under another header."""
    update = MaskedUpdate.decode(body)
    return MaskedUpdate.join(replace(update.header, **changes), bytes(update.packed))  # type: ignore[arg-type]


def packed(body: bytes, change: Callable[[bytes], bytes]) -> bytes:
    update = MaskedUpdate.decode(body)
    return MaskedUpdate.join(update.header, change(bytes(update.packed)))


def framed(body: bytes, text: bytes) -> bytes:
    return body[:4] + len(text).to_bytes(4, "big") + text + bytes(MaskedUpdate.decode(body).packed)


def sealed_update(told: Told, _body: bytes) -> bytes:
    terms = told.offer.terms
    written = UpdateHeader(terms.round_id, terms.model.version, told.identity.device_id, 5).encode()
    content = seal(SealingKey.generate().public, bytes(terms.update.size_bytes), SEAL_INFO, written)
    return Upload.join(written, content)


def confirmation(told: Told, digest: str, key: SigningKey | None = None) -> bytes:
    return Confirmation.sign(key or told.identity.key, told.offer.terms.round_id, digest).encode()


def disclosed(body: bytes, **changes: object) -> bytes:
    return replace(Disclosure.decode(body), **changes).encode()  # type: ignore[arg-type]


def both_kinds(_told: Told, body: bytes) -> bytes:
    return disclosed(body, key=Disclosure.decode(body).own[:1])


def own_and(body: bytes, position: int, share: bytes = bytes(SHARE_BYTES)) -> bytes:
    held = {**dict(Disclosure.decode(body).own), position: share}
    return disclosed(body, own=tuple(sorted(held.items())))


def first_own(body: bytes) -> int:
    return Disclosure.decode(body).own[0][0]


def of_nobody(told: Told, body: bytes) -> bytes:
    return advert(told, key=SigningKey.generate())


def all_but_one(told: Told, body: bytes) -> bytes:
    least = SharesMessage.decode(body).shares[0].peer
    return shares(body, lambda peer: peer != least).encode()


def nan(told: Told, body: bytes) -> bytes:
    return framed(body, MaskedUpdate.decode(body).header.encode().replace(b'version":1', b'version":NaN'))


def forged_confirmation(told: Told, body: bytes) -> bytes:
    return confirmation(told, told.survivors.digest, SigningKey.generate())


def as_of_the_vanished(told: Told, body: bytes) -> bytes:
    return disclosed(body, own=(), key=Disclosure.decode(body).own)


BOMB = b'{"a":' + b"[" * 8000
ATTACKS = (
    Attack("a JSON bomb as keys", "keys", lambda t, b: BOMB),
    Attack("objects nested as keys", "keys", lambda t, b: b'{"a":' * 3000),
    Attack("a megabyte of keys", "keys", lambda t, b: b" " * (1 << 20), "too_large"),
    Attack("keys named twice", "keys", lambda t, b: b[:-1] + b"," + b[1:]),
    Attack("keys of another round", "keys", lambda t, b: advert(t, round_id="f" * 32), "bad_signature"),
    Attack("keys for other terms", "keys", lambda t, b: advert(t, terms_digest="f" * 64), "bad_signature"),
    Attack("forged keys", "keys", forged, "bad_signature"),
    Attack("another device's keys", "keys", of_nobody),
    Attack("a stranger's name on keys", "keys", strangers),
    Attack("keys of small order", "keys", lambda t, b: advert(t, sealing_key=bytes(32))),
    Attack("one key for both", "keys", same_key_twice),
    Attack("other keys after", "keys", lambda t, b: advert(t), "already_accepted", after=True),
    Attack("a JSON bomb as shares", "shares", lambda t, b: BOMB[:1000]),
    Attack("shares for strangers", "shares", for_itself),
    Attack("shares for another roster", "shares", lambda t, b: shares(b, roster_digest="f" * 64).encode()),
    Attack("shares for some neighbours alone", "shares", all_but_one),
    Attack("no shares", "shares", lambda t, b: shares(b, lambda peer: False).encode()),
    Attack("other shares after", "shares", other_shares, "already_accepted", after=True),
    Attack("one value too many", "update", lambda t, b: packed(b, lambda p: p + bytes(4)), "wrong_length"),
    Attack("one value alone", "update", lambda t, b: packed(b, lambda p: p[:4]), "wrong_length"),
    Attack("no value", "update", lambda t, b: packed(b, lambda p: b""), "wrong_length"),
    Attack("filled up with ones", "update", lambda t, b: packed(b, lambda p: b"\xff" * len(p))),
    Attack("another round's update", "update", lambda t, b: header(b, round_id="f" * 32), "other_round"),
    Attack("another group's update", "update", lambda t, b: header(b, group_digest="f" * 64), "other_round"),
    Attack("another model's update", "update", lambda t, b: header(b, model_version=9), "other_model"),
    Attack("another device's update", "update", lambda t, b: header(b, device_id="f" * 32)),
    Attack("a sealed update", "update", sealed_update),
    Attack("not an update", "update", lambda t, b: b"hello"),
    Attack("a JSON bomb as header", "update", lambda t, b: framed(b, BOMB)),
    Attack("NaN in the header", "update", nan, "not_finite"),
    Attack("a megabyte of update", "update", lambda t, b: bytes(1 << 20), "too_large"),
    Attack(
        "another update after", "update", lambda t, b: packed(b, lambda p: bytes(len(p))),
        "already_accepted", after=True,
    ),
    Attack("a confirmation of another set", "confirmation", lambda t, b: confirmation(t, "f" * 64)),
    Attack("a forged confirmation", "confirmation", forged_confirmation, "bad_signature"),
    Attack("a JSON bomb as confirmation", "confirmation", lambda t, b: BOMB),
    Attack(
        "another set confirmed after", "confirmation", lambda t, b: confirmation(t, "e" * 64),
        "already_accepted", after=True,
    ),
    Attack("both kinds of share", "disclosure", both_kinds),
    Attack("shares as of a vanished device", "disclosure", as_of_the_vanished),
    Attack("shares for another set", "disclosure", lambda t, b: disclosed(b, survivors_digest="f" * 64)),
    Attack("a share of its own secret", "disclosure", lambda t, b: own_and(b, t.position)),
    Attack("a share beyond the field", "disclosure", lambda t, b: own_and(b, first_own(b), BEYOND)),
    Attack("a JSON bomb as disclosure", "disclosure", lambda t, b: BOMB[:400]),
    Attack(
        "another disclosure after", "disclosure", lambda t, b: own_and(b, first_own(b)),
        "already_accepted", after=True,
    ),
)  # fmt: skip


@dataclass
class Scene:
    """The round when it is over."""

    fleet: MarkedFleet
    transport: AttackingTransport
    grown_kib: int


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    plan = marked_plan(
        cohort=DEVICES, minimum=3, pool_wait_s=20.0, keys_s=60.0, shares_s=60.0, deadline_s=60.0,
        confirm_s=60.0, unmask_s=60.0, lease_s=60.0, presence_s=20.0,
    )  # fmt: skip
    fleet = MarkedFleet(tmp_path_factory.mktemp("hostile") / "fleet", DEVICES, plan, rounds=1)
    assert fleet.server.start()
    fleet.enrol()
    before = held_kib(fleet.server.pid)
    hostile = agent_of(fleet.root, 0)
    transport = AttackingTransport(hostile.identity, ATTACKS)
    hostile.close()
    waiting = {index: WaitingTransport(transport.done) for index in range(1, DEVICES)}
    with fleet.at_work(transports={0: transport, **waiting}):
        fleet.wait_for_rounds(1, 60)
    grown = held_kib(fleet.server.pid) - before
    yield Scene(fleet, transport, grown)
    fleet.server.stop()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_the_device_hears_the_reason_and_nothing_counts(attack: Attack, scene: Scene) -> None:
    heard = scene.transport.heard[attack.name]
    assert (heard.status, heard.reason) == (STATUS[Reason(attack.reason)], attack.reason)
    if attack.instead_of in ("keys", "shares") or (attack.instead_of == "update" and not attack.after):
        assert heard.accepted == 0


@pytest.mark.parametrize("phase", PHASES)
def test_a_message_that_was_overheard_cannot_be_sent_again(phase: str, scene: Scene) -> None:
    heard = scene.transport.heard[f"{phase} replayed"]
    assert (heard.status, heard.reason) == (412, "replayed")


def test_the_sum_is_that_of_the_right_messages_each_once(scene: Scene) -> None:
    assert scene.fleet.check_models() == 1
    assert scene.fleet.contributors(2) == dict.fromkeys(range(DEVICES), 1.0)


def test_the_server_takes_no_memory_for_any_of_it(scene: Scene) -> None:
    assert scene.grown_kib < GROWTH_KIB


def test_a_device_revoked_in_the_middle_of_a_round_is_shut_out_of_it(tmp_path: Path) -> None:
    plan = marked_plan(
        cohort=DEVICES, minimum=3, pool_wait_s=20.0, shares_s=2.0, deadline_s=60.0, lease_s=60.0,
        presence_s=20.0,
    )  # fmt: skip
    fleet = MarkedFleet(tmp_path / "fleet", DEVICES, plan, rounds=1)
    assert fleet.server.start()
    fleet.enrol()
    revoked = {"shares": threading.Event()}
    with fleet.at_work(transports={0: WaitingTransport(revoked)}):
        fleet.wait_until(lambda: any(row.phase == "shares" for row in fleet.rows()), 30)
        with closing(Database.in_file(fleet.root / "server" / "fleet.db")) as database:
            assert database.revoke(fleet.ids[0], time.time())
        revoked["shares"].set()
        fleet.wait_for_rounds(1, 60)
    fleet.server.stop()
    assert fleet.check_models() == 1
    assert fleet.contributors(2) == dict.fromkeys(range(1, DEVICES), 1.0)
    assert '" 403 Forbidden' in fleet.server.log.read_text("utf-8")
