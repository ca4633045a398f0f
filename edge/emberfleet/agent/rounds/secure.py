"""A secure round as the device sees it: pure transitions from one `DeviceRound` to the next.

No I/O, no clock; randomness is passed in. A message that does not pass its checks raises a `CheckError`,
and the round is left.

| stage | comes | checked | then | sent |
| --- | --- | --- | --- | --- |
| | offer | `consider_offer` | JOINED, secrets drawn | advert |
| JOINED | roster | `take_roster` | SHARED, shares sealed | shares |
| SHARED | mailbox | `take_mailbox` | GROUPED, neighbours' shares kept | |
| GROUPED | a change of weights | finite, of the plan's shape | TRAINED, own secrets gone | masked update |
| TRAINED, CONFIRMED | survivors | `take_survivors` | CONFIRMED, the first set and no other | confirmation |
| CONFIRMED | confirmations | `take_confirmations` | DISCLOSED, held shares gone | disclosure |

Any stage is left for good when a check fails, when the server says that the round is over, and after the
disclosure. What is sent is the same bytes however often it is asked for.
"""

from __future__ import annotations

import secrets as randomness
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from emberfleet.agent.rounds.checks import Check, CheckError
from emberfleet.agent.rounds.state import DeviceRound, Held, Secrets, Stage
from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import ConfigError, FormatError, SealError, SignatureError
from emberfleet.core.offers import RoundOffer
from emberfleet.core.sealing import SealingKey
from emberfleet.core.secure.agreement import MaskKey, rounding_seed
from emberfleet.core.secure.answers import (
    Confirmation,
    Confirmations,
    Disclosure,
    MaskedHeader,
    MaskedUpdate,
    Survivors,
)
from emberfleet.core.secure.group import Graph
from emberfleet.core.secure.masking import mask_update
from emberfleet.core.secure.messages import Advert, Mailbox, Roster, SealedShare, SharesMessage
from emberfleet.core.secure.pairs import masks_added
from emberfleet.core.secure.shamir import SHARE_BYTES, Share, split_secret
from emberfleet.core.secure.statements import open_shares, seal_shares
from emberfleet.core.signing import SigningKey

if TYPE_CHECKING:
    from emberfleet.core.arrays import Float32

Below = Callable[[int], int]
"""A uniform number below its argument."""


@dataclass(frozen=True, slots=True)
class Party:
    """What a device brings to all its rounds.

    Attributes:
        key: Signs for it.
        floor: Fewest updates that a sum it takes part in may have.
    """

    key: SigningKey
    floor: int

    def least(self, round_: DeviceRound) -> int:
        """Fewest updates in the sum, by the terms and by this device."""
        secure = round_.offer.terms.secure
        assert secure is not None
        return max(secure.minimum, self.floor)


def join_round(offer: RoundOffer, secrets: Secrets) -> DeviceRound:
    """Take a place in a secure round; the offer has passed `consider_offer`."""
    return DeviceRound(offer, Stage.JOINED, secrets)


def advert_of(round_: DeviceRound, party: Party) -> Advert:
    """What the device says of itself in the roster."""
    round_.require(Stage.JOINED)
    secrets, terms = _secrets(round_), round_.offer.terms
    sealing_key = SealingKey(secrets.sealing_key).public
    return Advert.sign(
        party.key, _mask_key(secrets), sealing_key, secrets.own_mask, terms.round_id, terms.digest
    )


def take_roster(
    round_: DeviceRound, roster: Roster, party: Party, below: Below = randomness.randbelow
) -> DeviceRound:
    """Check who is there, and seal shares of both secrets for each neighbour.

    Raises:
        CheckError: The roster is not one this device can trust; see `Check`.
    """
    round_.require(Stage.JOINED)
    terms, number = round_.offer.terms, round_.number
    if roster.round_id != terms.round_id:
        raise CheckError(Check.OTHER_ROUND, number)
    if roster.terms_digest != terms.digest:
        raise CheckError(Check.OTHER_TERMS, number)
    for member in roster.members:
        if not member.names_itself:
            raise CheckError(Check.SWAPPED_KEY, number, f"device {member.device_id}")
    if len(roster.members) < party.least(round_):
        found = f"{len(roster.members)}, expected at least {party.least(round_)}"
        raise CheckError(Check.TOO_FEW_MEMBERS, number, found)
    position = roster.position_of(round_.offer.device_id)
    if position is None or roster.members[position] != advert_of(round_, party):
        raise CheckError(Check.OWN_ADVERT, number)
    graph = Graph(roster, terms)
    try:
        neighbours, threshold = graph.neighbours_of(position), graph.threshold
    except ConfigError as error:
        raise CheckError(Check.NO_GRAPH, number, str(error)) from error
    for peer in neighbours:
        member = roster.members[peer]
        try:
            member.verify(terms.round_id, terms.digest)
            member.check_keys()
        except SignatureError as error:
            raise CheckError(Check.NEIGHBOUR_SIGNATURE, number, f"device {member.device_id}") from error
        except FormatError as error:
            raise CheckError(Check.NEIGHBOUR_KEY, number, str(error)) from error
    secrets, points = _secrets(round_), [peer + 1 for peer in neighbours]
    of_key = split_secret(secrets.mask_key, threshold, points, below)
    of_own = split_secret(secrets.own_mask, threshold, points, below)
    shares = []
    for peer, key_share, own_share in zip(neighbours, of_key, of_own, strict=True):
        sealed = seal_shares(
            roster.members[peer].sealing_key,
            key_share.encode() + own_share.encode(),
            terms.round_id,
            roster.digest,
            position,
            peer,
        )
        shares.append(SealedShare.sign(party.key, sealed, terms.round_id, roster.digest, position, peer))
    message = SharesMessage(roster.digest, tuple(shares))
    return replace(round_, stage=Stage.SHARED, roster=roster, shares=message.encode())


def take_mailbox(
    round_: DeviceRound, mailbox: Mailbox, party: Party
) -> tuple[DeviceRound, tuple[tuple[str, str], ...]]:
    """Learn who takes part, and keep the neighbours' shares.

    Returns:
        The round, and each neighbour whose shares are not kept, with why: it cannot be helped by this
        device should it vanish, which is its own or the server's doing.

    Raises:
        CheckError: This device does not take part, or with too few others.
    """
    round_.require(Stage.SHARED)
    number, roster, own = round_.number, round_.graph.roster, round_.position
    if mailbox.roster_digest != roster.digest:
        raise CheckError(Check.OTHER_ROSTER, number)
    if mailbox.participants and mailbox.participants[-1] >= len(roster.members):
        raise CheckError(Check.OTHER_ROSTER, number, f"position {mailbox.participants[-1]} is not in it")
    if own not in mailbox.participants:
        raise CheckError(Check.NOT_A_PARTICIPANT, number)
    if len(mailbox.participants) < party.least(round_):
        found = f"{len(mailbox.participants)}, expected at least {party.least(round_)}"
        raise CheckError(Check.TOO_FEW_PARTICIPANTS, number, found)
    after = replace(round_, stage=Stage.GROUPED, participants=mailbox.participants, shares=b"")
    neighbours = after.group.neighbours_of(own)
    if len(neighbours) < after.graph.threshold:
        found = f"{len(neighbours)}, expected at least {after.graph.threshold}"
        raise CheckError(Check.TOO_FEW_NEIGHBOURS, number, found)
    key = SealingKey(_secrets(round_).sealing_key)
    held: list[Held] = []
    left_out: dict[int, str] = dict.fromkeys(neighbours, "sent no shares")
    for share in mailbox.shares:
        if share.peer not in left_out:
            continue
        try:
            held.append(_open_share(share, key, roster, own))
        except (SignatureError, SealError, FormatError) as error:
            left_out[share.peer] = str(error)
        else:
            del left_out[share.peer]
    named = tuple((roster.members[peer].device_id, why) for peer, why in sorted(left_out.items()))
    return replace(after, held=tuple(held)), named


def mask_change(round_: DeviceRound, change: Float32, samples: int) -> bytes:
    """The body of the upload: the change and its weight, under the masks that the group takes out again.

    Args:
        round_: At the stage GROUPED.
        change: ``(plan.size,)`` float32, new minus old.
        samples: What it was trained on.

    Raises:
        NotFiniteError: The training diverged.
    """
    round_.require(Stage.GROUPED)
    group, secrets, device_id = round_.group, _secrets(round_), round_.offer.device_id
    neighbours = [group.member(peer) for peer in group.neighbours_of(round_.position)]
    masks = masks_added(device_id, _mask_key(secrets), secrets.own_mask, neighbours, group.context)
    packed = mask_update(change, samples, group.layout, masks, rounding_of(round_))
    terms = round_.offer.terms
    header = MaskedHeader(terms.round_id, device_id, terms.model.version, group.digest)
    return MaskedUpdate.join(header, packed)


def rounding_of(round_: DeviceRound) -> bytes:
    """The seed of this device's rounding, from a secret of its own."""
    round_.require(Stage.GROUPED)
    return rounding_seed(_secrets(round_).rounding, round_.offer.device_id, round_.group.context)


def keep_masked(round_: DeviceRound, body: bytes) -> DeviceRound:
    """The update is made, and no other can be: the secrets behind its masks are forgotten."""
    round_.require(Stage.GROUPED)
    return replace(round_, stage=Stage.TRAINED, secrets=None, body_digest=sha256_hex(body))


def take_survivors(round_: DeviceRound, survivors: Survivors, party: Party) -> DeviceRound:
    """Check the set of survivors and settle on it; the same set again changes nothing.

    Raises:
        CheckError: It is not a set this device may help to unmask, or it is a second one.
    """
    round_.require(Stage.TRAINED, Stage.CONFIRMED)
    number, group = round_.number, round_.group
    if round_.survivors is not None:
        if round_.survivors != survivors:
            raise CheckError(Check.SECOND_SURVIVORS, number)
        return round_
    if survivors.group_digest != group.digest:
        raise CheckError(Check.OTHER_GROUP, number)
    alive, dead = frozenset(survivors.survivors), frozenset(survivors.vanished)
    if alive & dead:
        raise CheckError(Check.ALIVE_AND_DEAD, number, f"position {min(alive & dead)}")
    if alive | dead != frozenset(group.participants):
        raise CheckError(Check.NOT_THE_GROUP, number)
    if round_.position not in alive:
        raise CheckError(Check.COUNTED_OUT, number)
    if len(alive) < party.least(round_):
        found = f"{len(alive)}, expected at least {party.least(round_)}"
        raise CheckError(Check.TOO_FEW_SURVIVORS, number, found)
    near = sum(peer in alive for peer in group.neighbours_of(round_.position))
    if near < round_.graph.threshold:
        found = f"{near}, expected at least {round_.graph.threshold}"
        raise CheckError(Check.TOO_FEW_NEIGHBOURS_ALIVE, number, found)
    return replace(round_, stage=Stage.CONFIRMED, survivors=survivors, body_digest="")


def confirmation_of(round_: DeviceRound, party: Party) -> Confirmation:
    """The device's signature over the one set that it confirms."""
    round_.require(Stage.CONFIRMED)
    assert round_.survivors is not None
    return Confirmation.sign(party.key, round_.round_id, round_.survivors.digest)


def take_confirmations(round_: DeviceRound, confirmations: Confirmations) -> DeviceRound:
    """Once a quorum of survivors has signed the same set, give out one share of each neighbour.

    Signatures that do not verify, and those of devices that did not survive, count nothing.

    Raises:
        CheckError: No quorum, or shares were given out before.
    """
    if round_.stage is Stage.DISCLOSED:
        raise CheckError(Check.DISCLOSED_ALREADY, round_.number)
    round_.require(Stage.CONFIRMED)
    assert round_.survivors is not None
    survivors, group = round_.survivors, round_.group
    alive, valid = frozenset(survivors.survivors), 0
    for position, signature in confirmations.signatures:
        if position in alive and valid < group.quorum:
            public_key = group.roster.members[position].public_key
            valid += _confirms(Confirmation(survivors.digest, signature), public_key, round_.round_id)
    if valid < group.quorum:
        raise CheckError(Check.NO_QUORUM, round_.number, f"{valid}, expected {group.quorum}")
    own = tuple((held.position, held.own) for held in round_.held if held.position in alive)
    key = tuple((held.position, held.key) for held in round_.held if held.position not in alive)
    return DeviceRound(
        round_.offer, Stage.DISCLOSED, disclosure=Disclosure(survivors.digest, own, key).encode()
    )


def _confirms(confirmation: Confirmation, public_key: bytes, round_id: str) -> bool:
    try:
        confirmation.verify(public_key, round_id)
    except SignatureError:
        return False
    return True


def _open_share(share: SealedShare, key: SealingKey, roster: Roster, own: int) -> Held:
    sender = roster.members[share.peer]
    share.verify(sender.public_key, roster.round_id, roster.digest, share.peer, own)
    opened = open_shares(key, share.sealed, roster.round_id, roster.digest, share.peer, own)
    of_key, of_own = opened[:SHARE_BYTES], opened[SHARE_BYTES:]
    for part in (of_key, of_own):
        Share.decode(part, own + 1)
    return Held(share.peer, of_key, of_own)


def _secrets(round_: DeviceRound) -> Secrets:
    assert round_.secrets is not None
    return round_.secrets


def _mask_key(secrets: Secrets) -> MaskKey:
    return MaskKey(X25519PrivateKey.from_private_bytes(secrets.mask_key))
