"""Devices of a secure round, as simple as the protocol allows: for tests of the server's side."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from emberfleet.core.arrays import Float32
from emberfleet.core.messages import ModelInfo, UpdateHeader, device_id_of
from emberfleet.core.offers import Mode, RoundTerms
from emberfleet.core.sealing import SealingKey
from emberfleet.core.secure.agreement import MaskKey
from emberfleet.core.secure.answers import Confirmation, Disclosure, MaskedHeader, MaskedUpdate, Survivors
from emberfleet.core.secure.group import Graph, Group
from emberfleet.core.secure.masking import mask_update
from emberfleet.core.secure.messages import Advert, Mailbox, Roster, SealedShare, SharesMessage
from emberfleet.core.secure.pairs import masks_added
from emberfleet.core.secure.shamir import SHARE_BYTES, split_secret
from emberfleet.core.secure.statements import open_shares, seal_shares
from emberfleet.core.signing import SigningKey
from emberfleet.core.updates import TensorPlan, UpdatePlan
from emberfleet.server.rounds.plan import RoundPlan

ROUND_ID = "0f" * 16
UPDATE = UpdatePlan((TensorPlan("weight", (40, 10), 0.5),), 16)


def terms_of(plan: RoundPlan, round_id: str = ROUND_ID, number: int = 1) -> RoundTerms:
    secure = plan.secure_terms if plan.mode is Mode.SECURE else None
    key = None if secure else SealingKey(b"k" * 32).public
    return RoundTerms(round_id, number, ModelInfo(1, "d" * 64, 10), UPDATE, {}, 7, secure, key)


def device_ids(count: int) -> tuple[str, ...]:
    return tuple(f"{number:032x}" for number in range(count))


def sealed_header(device_id: str, samples: int = 1, round_id: str = ROUND_ID) -> UpdateHeader:
    return UpdateHeader(round_id, 1, device_id, samples)


@dataclass
class Device:
    """One device; what it keeps is what it was told."""

    number: int
    terms: RoundTerms
    change: Float32 = field(default_factory=lambda: np.zeros(UPDATE.size, np.float32))
    lies: bool = False
    """Shares that are not on the polynomial, for every neighbour."""

    def __post_init__(self) -> None:
        self.key = SigningKey(random.Random(self.number).randbytes(32))
        self.id = device_id_of(self.key.verify_key.raw)
        self.mask_key = MaskKey.generate()
        self.sealing_key = SealingKey.generate()
        self.secret = random.Random(-self.number - 1).randbytes(32)
        self.held: dict[int, bytes] = {}

    def advert(self) -> Advert:
        return Advert.sign(
            self.key,
            self.mask_key,
            self.sealing_key.public,
            self.secret,
            self.terms.round_id,
            self.terms.digest,
        )

    def shares(self, roster_data: bytes) -> SharesMessage:
        self.graph = Graph(Roster.decode(roster_data), self.terms)
        roster = self.graph.roster
        found = roster.position_of(self.id)
        assert found is not None
        self.position = found
        peers = self.graph.neighbours[self.position]
        points = [peer + 1 for peer in peers]
        keys = split_secret(self.mask_key.secret(), self.graph.threshold, points)
        owns = split_secret(bytes(32) if self.lies else self.secret, self.graph.threshold, points)
        listed = []
        for peer, key, own in zip(peers, keys, owns, strict=True):
            public, route = roster.members[peer].sealing_key, (self.position, peer)
            sealed = seal_shares(public, key.encode() + own.encode(), roster.round_id, roster.digest, *route)
            listed.append(SealedShare.sign(self.key, sealed, roster.round_id, roster.digest, *route))
        return SharesMessage(roster.digest, tuple(listed))

    def open_mailbox(self, data: bytes) -> None:
        box = Mailbox.decode(data)
        roster = self.graph.roster
        self.group = Group(self.graph, box.participants)
        for share in box.shares:
            context = (roster.round_id, roster.digest, share.peer, self.position)
            share.verify(roster.members[share.peer].public_key, *context)
            self.held[share.peer] = open_shares(self.sealing_key, share.sealed, *context)

    def header(self) -> MaskedHeader:
        return MaskedHeader(self.terms.round_id, self.id, self.terms.model.version, self.group.digest)

    def update(self, samples: int = 1) -> bytes:
        peers = [self.group.member(peer) for peer in self.group.neighbours[self.position]]
        masks = masks_added(self.id, self.mask_key, self.secret, peers, self.group.context)
        packed = mask_update(self.change, samples, self.group.layout, masks, bytes(32))
        return MaskedUpdate.join(self.header(), packed)

    def confirmation(self, survivors_data: bytes) -> Confirmation:
        self.survivors = Survivors.decode(survivors_data)
        return Confirmation.sign(self.key, self.terms.round_id, self.survivors.digest)

    def disclosure(self, wrong: Sequence[int] = ()) -> Disclosure:
        """What it gives back; of `wrong` positions something else."""
        alive = set(self.survivors.survivors)
        own: list[tuple[int, bytes]] = []
        key: list[tuple[int, bytes]] = []
        for peer, shares in sorted(self.held.items()):
            half = slice(SHARE_BYTES, None) if peer in alive else slice(0, SHARE_BYTES)
            share = shares[half]
            if peer in wrong:
                share = bytes(SHARE_BYTES - 1) + bytes([peer % 250 + 1])
            (own if peer in alive else key).append((peer, share))
        return Disclosure(self.survivors.digest, tuple(own), tuple(key))


def devices_of(count: int, terms: RoundTerms) -> list[Device]:
    """By ascending id, as a roster lists them."""
    return sorted((Device(number, terms) for number in range(count)), key=lambda device: device.id)
