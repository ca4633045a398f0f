"""Devices of one secure round, and a server that keeps to the protocol: each message in memory."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field, replace

import numpy as np

from emberfleet.agent.rounds import secure
from emberfleet.agent.rounds.secure import Party
from emberfleet.agent.rounds.state import DeviceRound, Secrets
from emberfleet.core.arrays import Array, Float32
from emberfleet.core.messages import ModelInfo, device_id_of
from emberfleet.core.offers import RoundOffer, RoundTerms, SecureTerms
from emberfleet.core.secure.answers import Confirmations, Disclosure, MaskedUpdate, Survivors
from emberfleet.core.secure.group import Graph, Group
from emberfleet.core.secure.masking import UpdateSum, add_masked, add_masks, empty_sum, read_sum
from emberfleet.core.secure.messages import Mailbox, Roster, SealedShare, SharesMessage
from emberfleet.core.secure.pairs import masks_left
from emberfleet.core.secure.rounding import round_change
from emberfleet.core.secure.shamir import Share, combine_shares
from emberfleet.core.signing import SigningKey
from emberfleet.core.updates import TensorPlan, UpdatePlan

ROUND = "5e" * 16
MODEL = ModelInfo(4, "c" * 64, 1000)
PLAN = UpdatePlan((TensorPlan("a", (5,), 0.5), TensorPlan("b", (2, 3), 2.0)), 8)


def terms_of(minimum: int = 3, plan: UpdatePlan = PLAN, **secure_terms: float) -> RoundTerms:
    """The terms of a secure round."""
    settings = {"corrupt_share": 0.1, "dropout_share": 0.3, **secure_terms}
    return RoundTerms(
        ROUND,
        7,
        MODEL,
        plan,
        {"epochs": 1},
        9,
        SecureTerms(minimum, **settings),  # type: ignore[arg-type]
    )


@dataclass
class Device:
    """One device: what it brings, and its round."""

    party: Party
    round: DeviceRound
    change: Float32
    samples: int
    body: bytes = b""

    @property
    def party_id(self) -> str:
        return self.round.offer.device_id

    @property
    def position(self) -> int:
        return self.round.position

    def restart(self) -> None:
        """Forget everything but what is written down."""
        self.round = DeviceRound.decode(self.round.encode())


@dataclass
class World:
    """A round: its devices by ascending id, as in the roster, and what the server makes of their messages."""

    terms: RoundTerms
    devices: list[Device]
    integers: dict[int, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, count: int, terms: RoundTerms | None = None, floor: int = 3, seed: int = 0) -> World:
        terms, generator = terms or terms_of(), np.random.default_rng(seed)
        keys = [SigningKey(hashlib.sha256(f"{seed}/{index}".encode()).digest()) for index in range(count)]
        keys.sort(key=lambda key: device_id_of(key.verify_key.raw))
        devices = []
        for index, key in enumerate(keys):
            drawn = random.Random(f"{seed}/{index}")
            offer = RoundOffer(terms, device_id_of(key.verify_key.raw), 5.0, 60.0, 10.0)
            round_ = secure.join_round(offer, Secrets.draw(drawn.randbytes))
            change = (generator.standard_normal(terms.update.size) * 0.3).astype(np.float32)
            devices.append(Device(Party(key, floor), round_, change, int(generator.integers(1, 40))))
        return cls(terms, devices)

    def roster(self) -> Roster:
        """All adverts, once."""
        adverts = [secure.advert_of(device.round, device.party) for device in self.devices]
        return Roster.of(self.terms.round_id, self.terms.digest, adverts)

    def share(self) -> Graph:
        """All devices take the roster."""
        roster = self.roster()
        for device in self.devices:
            device.round = secure.take_roster(device.round, roster, device.party)
        return Graph(roster, self.terms)

    def mailbox(self, position: int, participants: tuple[int, ...]) -> Mailbox:
        """What the server has for one device, from the shares of the participants."""
        graph = self.graph
        found = []
        for sender in sorted(set(graph.neighbours_of(position)) & set(participants)):
            message = SharesMessage.decode(self.messages[sender], len(self.devices))
            share = next(share for share in message.shares if share.peer == position)
            found.append(SealedShare(sender, share.sealed, share.signature))
        return Mailbox(graph.roster.digest, participants, tuple(found))

    def group(self, senders: tuple[int, ...] | None = None) -> Group:
        """Everybody shares, those in `senders` in time, and they learn who takes part."""
        self.graph = self.share()
        self.messages = {device.position: device.round.shares for device in self.devices}
        in_time = range(len(self.devices)) if senders is None else senders
        self.group_ = Group(self.graph, self.graph.participants(in_time))
        for position in self.group_.participants:
            device = self.devices[position]
            mailbox = self.mailbox(position, self.group_.participants)
            device.round, left_out = secure.take_mailbox(device.round, mailbox, device.party)
            assert not left_out
        return self.group_

    def train(self, survivors: tuple[int, ...] | None = None) -> Survivors:
        """The survivors make their updates; the rest vanish."""
        alive = self.group_.participants if survivors is None else survivors
        for position in alive:
            self.train_one(self.devices[position])
        dead = tuple(position for position in self.group_.participants if position not in alive)
        return Survivors(self.group_.digest, tuple(alive), dead)

    def train_one(self, device: Device) -> None:
        layout, seed = device.round.group.layout, secure.rounding_of(device.round)
        rounded = layout.ring.signed(round_change(device.change, device.samples, layout, seed))
        self.integers[device.position] = rounded.astype(np.int64)
        device.body = secure.mask_change(device.round, device.change, device.samples)
        device.round = secure.keep_masked(device.round, device.body)

    def confirm(self, survivors: Survivors) -> Confirmations:
        """All survivors settle on the set."""
        signatures = []
        for position in survivors.survivors:
            device = self.devices[position]
            device.round = secure.take_survivors(device.round, survivors, device.party)
            signatures.append((position, secure.confirmation_of(device.round, device.party).signature))
        return Confirmations(tuple(signatures))

    def disclose(self, confirmations: Confirmations, answering: tuple[int, ...]) -> dict[int, Disclosure]:
        """Those that answer give their shares."""
        found = {}
        for position in answering:
            device = self.devices[position]
            device.round = secure.take_confirmations(device.round, confirmations)
            found[position] = Disclosure.decode(device.round.disclosure, len(self.devices))
        return found

    def unmask(self, survivors: Survivors, disclosures: dict[int, Disclosure]) -> UpdateSum:
        """The sum of the survivors' updates."""
        group, gathered = self.group_, dict[int, list[Share]]()
        for holder, disclosure in disclosures.items():
            for position, data in (*disclosure.own, *disclosure.key):
                gathered.setdefault(position, []).append(Share.decode(data, holder + 1))
        secrets = {
            position: combine_shares(shares, group.graph.threshold) for position, shares in gathered.items()
        }
        total = empty_sum(group.layout)
        for position in survivors.survivors:
            add_masked(total, bytes(MaskedUpdate.decode(self.devices[position].body).packed), group.layout)
        # Positions within the group, so that who never took part leaves no mask.
        places = {position: place for place, position in enumerate(group.participants)}
        members = [group.member(position) for position in group.participants]
        graph = [[places[peer] for peer in group.neighbours[position]] for position in group.participants]
        alive = [places[position] for position in survivors.survivors]
        placed = {places[position]: secret for position, secret in secrets.items()}
        add_masks(total, masks_left(members, graph, alive, placed, group.context))
        return read_sum(total, group.layout, len(survivors.survivors))

    def expected(self, survivors: Survivors) -> UpdateSum:
        """The same from the integers that the survivors sent, without any mask."""
        layout = self.group_.layout
        samples = {device.party_id: device.samples for device in self.devices}
        alive = [self.group_.roster.ids[position] for position in survivors.survivors]
        weight = sum(layout.weigh(samples[device_id]) for device_id in alive)
        total = sum(self.integers[position] for position in survivors.survivors)
        mean = np.asarray(total, np.float64) * (layout.heaviest / weight)
        if layout.chosen is not None:
            whole = np.zeros(layout.plan.size)
            whole[layout.chosen] = mean
            mean = whole
        return UpdateSum(weight, mean)


def swapped(roster: Roster, position: int, **values: object) -> Roster:
    """The roster with another advert at one position."""
    members = list(roster.members)
    members[position] = replace(members[position], **values)  # type: ignore[arg-type]
    return Roster.of(roster.round_id, roster.terms_digest, members)
