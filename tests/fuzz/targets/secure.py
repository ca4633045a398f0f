"""A secure round's messages as bytes, and what both sides' state machines make of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from emberfleet.agent.rounds import secure
from emberfleet.agent.rounds.state import DeviceRound
from emberfleet.core.errors import EmberError, FormatError, SealError, ShapeError, SignatureError
from emberfleet.core.hpke import ComposedSuite, open_with
from emberfleet.core.messages import SEAL_INFO, Upload
from emberfleet.core.offers import Mode
from emberfleet.core.rotation import KeyChange
from emberfleet.core.sealing import SealingKey, open_sealed, seal
from emberfleet.core.secure.answers import (
    Confirmation,
    Confirmations,
    Disclosure,
    MaskedHeader,
    MaskedUpdate,
    Survivors,
)
from emberfleet.core.secure.masking import check_masked
from emberfleet.core.secure.messages import Advert, Mailbox, Roster, SharesMessage
from emberfleet.core.secure.packing import pack, unpack
from emberfleet.core.secure.ring import Ring
from emberfleet.core.secure.shamir import Share
from emberfleet.core.secure.statements import SHARES_BYTES, open_shares, seal_shares
from emberfleet.core.signing import SigningKey
from emberfleet.server.rounds.opening import open_round, start
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.rounds.receiving import open_upload
from emberfleet.server.rounds.state import Phase, Round
from emberfleet.server.rounds.steps import Kind, accept
from tests.agent.rounds.world import World
from tests.fuzz.fuzzing import Target, scratch
from tests.server.rounds.devices import device_ids, sealed_header, terms_of
from tests.server.rounds.secure_round import KINDS, Play

GOLDEN: Final = Path(__file__).parents[2] / "golden" / "secure_messages.json"
MEMBERS: Final = 3


def _golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    found["messages"] = {name: base64.b64decode(text) for name, text in found["messages"].items()}
    return found


def messages() -> list[Target]:
    """What devices and server send each other, up to the disclosure."""
    golden = _golden()
    data = golden["messages"]

    def codec(name: str, kind: Any) -> Target:
        def decode(body: bytes) -> Any:
            bounded = kind not in (Advert, Confirmation, MaskedHeader)
            return kind.decode(body, MEMBERS) if bounded else kind.decode(body)

        return Target(kind.__name__, [data[name]], decode, again=lambda found: decode(found.encode()))

    kinds = {
        "advert": Advert, "roster": Roster, "shares": SharesMessage, "mailbox": Mailbox,
        "survivors": Survivors, "confirmation": Confirmation, "confirmations": Confirmations,
        "disclosure": Disclosure,
    }  # fmt: skip
    body = data["masked update"]
    length = int.from_bytes(body[4:8], "big")
    header, packed = body[8 : 8 + length], body[8 + length :]

    def framed(text: bytes) -> bytes:
        return b"".join((body[:4], len(text).to_bytes(4, "big"), text, packed))

    found = [codec(name, kind) for name, kind in kinds.items()]
    found.append(Target("MaskedUpdate", [body], MaskedUpdate.decode))
    found.append(Target("MaskedHeader", [header], MaskedHeader.decode))
    found.append(Target("MaskedUpdate in its frame", [header], MaskedUpdate.decode, wrap=framed))
    return found


def proofs() -> list[Target]:
    """What is signed or sealed by curves: each input costs an operation on one."""
    golden = _golden()
    ids = golden["round_id"], golden["terms_digest"]
    key = SealingKey(bytes(range(32)))
    sealed = seal_shares(key.public, bytes(SHARES_BYTES), golden["round_id"], golden["roster_digest"], 0, 1)

    def advertised(data: bytes) -> None:
        advert = Advert.decode(data)
        advert.verify(*ids)
        advert.check_keys()

    def shared(data: bytes) -> None:
        for share in SharesMessage.decode(data, MEMBERS).shares:
            share.verify(_member(golden, 0), golden["round_id"], golden["roster_digest"], 0, share.peer)

    def confirmed(data: bytes) -> None:
        Confirmation.decode(data).verify(_member(golden, 0), golden["round_id"])

    def opened(data: bytes) -> None:
        open_shares(key, data, golden["round_id"], golden["roster_digest"], 0, 1)

    def changed(data: bytes) -> None:
        KeyChange.decode(data).verify("0f" * 16)

    private = X25519PrivateKey.from_private_bytes(bytes(range(32)))
    composed = ComposedSuite().encrypt(b"payload", private.public_key(), b"info")
    messages, refusals = golden["messages"], (FormatError, SignatureError)
    return [
        Target("advert's proof", [messages["advert"]], advertised, refusals),
        Target("shares' proofs", [messages["shares"]], shared, refusals),
        Target("confirmation's proof", [messages["confirmation"]], confirmed, refusals),
        Target(
            "key change's proof",
            [KeyChange.make("0f" * 16, SigningKey(bytes(32))).encode()],
            changed,
            refusals,
        ),
        Target("sealed shares", [sealed], opened, (SealError,)),
        Target(
            "sealed update",
            [seal(key.public, b"payload", b"info", b"data")],
            lambda data: open_sealed(key, data, b"info", b"data"),
            (SealError,),
        ),
        Target(
            "composed HPKE",
            [composed],
            lambda data: open_with(data, private, b"info"),
            (InvalidTag, ValueError),
        ),
    ]


def _member(golden: dict[str, Any], position: int) -> bytes:
    return Roster.decode(golden["messages"]["roster"]).members[position].public_key


def values() -> list[Target]:
    """Packed values of the ring, and shares of a secret."""
    ring, count = Ring(8, 20), 100
    packed = pack((np.arange(count) * 37 % (1 << ring.width)).astype(ring.word), ring)

    def unpacked(data: bytes) -> bytes:
        found = unpack(data, count, ring)
        assert (found < 1 << ring.width).all()
        return pack(found, ring)

    world = World.of(4)
    layout = world.group().layout
    world.train_one(world.devices[0])
    body = MaskedUpdate.decode(world.devices[0].body)

    return [
        Target("packed values", [packed], unpacked, (ShapeError, FormatError), again=unpacked),
        Target(
            "masked values", [bytes(body.packed)], lambda data: check_masked(data, layout),
            (ShapeError, FormatError),
        ),
        Target(
            "Share", [Share(3, 12345).encode()], lambda data: Share.decode(data, 3),
            again=lambda found: Share.decode(found.encode(), 3),
        ),
    ]  # fmt: skip


def server_steps() -> list[Target]:
    """Every message of a device, to a round of the server's that waits for it."""
    play, found = Play(), []
    acts = {
        Phase.KEYS: play.advert,
        Phase.SHARES: play.shares,
        Phase.COLLECT: play.update,
        Phase.CONFIRM: play.confirm,
        Phase.UNMASK: play.disclose,
    }
    for phase, act in acts.items():
        before, device = play.until(phase).round, play.devices[0]
        act(device)
        found.append(_server_step(before, KINDS[phase], device.id, play.messages[-1].body))
    return found


def _server_step(round_: Round, kind: Kind, device_id: str, body: bytes) -> Target:
    def step(data: bytes) -> None:
        after = accept(round_, kind, device_id, data, 0.0)
        assert after.phase is round_.phase

    return Target(f"server takes {kind.value}", [body], step, (EmberError,))


def uploads() -> list[Target]:
    """Finished uploads in their file, masked and sealed, as the server opens them."""
    path = scratch() / "upload"
    play = Play().until(Phase.COLLECT)
    play.update(play.devices[0])
    masked = play.bodies[play.devices[0].id]
    plan = RoundPlan(mode=Mode.SEALED, cohort=3, minimum=3)
    terms, names = terms_of(plan), device_ids(3)
    sealed_round = start(open_round(terms, plan, 0.0), names, 0.0)
    key, header = SealingKey(b"k" * 32), sealed_header(names[0]).encode()
    payload = bytes(terms.update.size_bytes)

    def sealed(content: bytes) -> bytes:
        return Upload.join(header, seal(key.public, content, SEAL_INFO, header))

    def opened(round_: Round, device_id: str, secret: SealingKey | None) -> Callable[[bytes], object]:
        def read(data: bytes) -> object:
            path.write_bytes(data)
            return open_upload(path, device_id, round_, secret)

        return read

    unsealed = opened(sealed_round, names[0], key)
    return [
        Target("masked upload", [masked], opened(play.round, play.devices[0].id, None), (EmberError,)),
        Target("sealed upload", [sealed(payload)], unsealed, (EmberError,)),
        Target("sealed values", [payload], unsealed, (EmberError,), wrap=sealed),
    ]


def device_steps() -> list[Target]:
    """Every answer of a server, to a device that waits for it."""
    world, found = World.of(4), []
    device, members = world.devices[0], 4

    def step(name: str, body: bytes, take: Callable[[DeviceRound, bytes], object]) -> None:
        before = device.round
        found.append(Target(f"device takes {name}", [body], lambda data: take(before, data), (EmberError,)))

    party = device.party
    step(
        "roster", world.roster().encode(),
        lambda round_, data: secure.take_roster(round_, Roster.decode(data), party),
    )  # fmt: skip
    world.graph = world.share()
    world.messages = {each.position: each.round.shares for each in world.devices}
    everybody = tuple(range(members))
    step(
        "mailbox", world.mailbox(0, everybody).encode(),
        lambda round_, data: secure.take_mailbox(round_, Mailbox.decode(data, members), party),
    )  # fmt: skip
    world = World.of(4)
    device = world.devices[0]
    world.group()
    survivors = world.train((0, 1, 2))
    step(
        "survivors", survivors.encode(),
        lambda round_, data: secure.take_survivors(round_, Survivors.decode(data, members), party),
    )  # fmt: skip
    confirmations = world.confirm(survivors)
    step(
        "confirmations", confirmations.encode(),
        lambda round_, data: secure.take_confirmations(round_, Confirmations.decode(data, members)),
    )  # fmt: skip
    return found


def device_states() -> list[Target]:
    """What a device has written down of a round, at each stage."""
    world = World.of(4)
    device = world.devices[0]
    states = [device.round]
    world.graph = world.share()
    states.append(device.round)
    world = World.of(4)
    device = world.devices[0]
    world.group()
    states.append(device.round)
    survivors = world.train((0, 1, 2))
    states.append(device.round)
    confirmations = world.confirm(survivors)
    states.append(device.round)
    world.disclose(confirmations, (0,))
    states.append(device.round)
    return [
        Target(
            "DeviceRound", [state.encode() for state in states], DeviceRound.decode,
            again=lambda found: DeviceRound.decode(found.encode()),
        ),
    ]  # fmt: skip
