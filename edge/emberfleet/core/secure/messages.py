"""The messages of a secure round before the training: who takes part, and the shares of their secrets.

Positions in the roster name the devices. Lists are ascending and without doubles; the size of every message
is bounded by the number of members before it is parsed. What each field means and who checks what stands in
docs/protocol.md, section A secure round; the messages after the training are in `core.secure.answers`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from emberfleet.core.codec import Fields, encode_json, to_base64
from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import FormatError
from emberfleet.core.messages import KEY_BYTES, MAX_SMALL_BYTES, check_device_id, check_round_id, device_id_of
from emberfleet.core.offers import MAX_MEMBERS
from emberfleet.core.sealing import OVERHEAD_BYTES
from emberfleet.core.secure.agreement import MaskKey
from emberfleet.core.secure.statements import (
    SHARES_BYTES,
    advert_statement,
    commitment_of,
    share_statement,
    sign_statement,
    verify_statement,
)
from emberfleet.core.signing import SIGNATURE_BYTES, SigningKey

SEALED_BYTES: Final = SHARES_BYTES + OVERHEAD_BYTES
COMMITMENT_BYTES: Final = 32
_ENVELOPE_BYTES: Final = 512
_ADVERT_TEXT_BYTES: Final = 512
_SHARE_TEXT_BYTES: Final = 384
POSITION_TEXT_BYTES: Final = 8
"""The most that a position and a comma take as text."""


@dataclass(frozen=True, slots=True)
class Advert:
    """What a device brings to a round: its keys and a commitment, signed for the round's terms.

    Attributes:
        device_id: The first half of the SHA-256 of `public_key`.
        public_key: The device's Ed25519 key.
        mask_key: X25519, of this round, for masks.
        sealing_key: X25519, of this round, to seal shares to this device.
        commitment: To the secret behind its own mask (`commitment_of`).
        signature: By `public_key`, over `advert_statement`.
    """

    device_id: str
    public_key: bytes
    mask_key: bytes
    sealing_key: bytes
    commitment: bytes
    signature: bytes

    @classmethod
    def sign(
        cls,
        key: SigningKey,
        mask_key: MaskKey,
        sealing_key: bytes,
        secret: bytes,
        round_id: str,
        terms_digest: str,
    ) -> Self:
        """The advert of the device with this key."""
        public_key = key.verify_key.raw
        device_id = device_id_of(public_key)
        commitment = commitment_of(secret, round_id, device_id)
        statement = advert_statement(
            round_id, terms_digest, device_id, public_key, mask_key.public, sealing_key, commitment
        )
        signature = sign_statement(key, statement)
        return cls(device_id, public_key, mask_key.public, sealing_key, commitment, signature)

    def verify(self, round_id: str, terms_digest: str) -> None:
        """Raise `SignatureError` unless the device signed it for this round and these terms.

        That `device_id` belongs to `public_key` is another check: `names_itself`.
        """
        statement = advert_statement(
            round_id,
            terms_digest,
            self.device_id,
            self.public_key,
            self.mask_key,
            self.sealing_key,
            self.commitment,
        )
        verify_statement(self.public_key, statement, self.signature)

    def check_keys(self) -> None:
        """Raise `FormatError` where no secret can be agreed on with its keys: points of small order."""
        # Any key shows whether a point is of small order.
        probe = X25519PrivateKey.from_private_bytes(bytes(range(32)))
        for public, name in ((self.mask_key, "mask"), (self.sealing_key, "sealing")):
            try:
                probe.exchange(X25519PublicKey.from_public_bytes(public))
            except ValueError as error:
                raise FormatError(
                    f"advert of {self.device_id}: its {name} key is a point of small order"
                ) from error

    @property
    def names_itself(self) -> bool:
        """Whether the id is the hash of the key."""
        return device_id_of(self.public_key) == self.device_id

    def to_json(self) -> list[str]:
        """As a JSON value."""
        keys = (self.public_key, self.mask_key, self.sealing_key, self.commitment, self.signature)
        return [self.device_id, *map(to_base64, keys)]

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read what `to_json` gave."""
        fields = read_row(
            value,
            "advert",
            ("device_id", "public_key", "mask_key", "sealing_key", "commitment", "signature"),
        )
        return cls(
            check_device_id(fields.text("device_id", 32)),
            fields.data("public_key", KEY_BYTES),
            fields.data("mask_key", KEY_BYTES),
            fields.data("sealing_key", KEY_BYTES),
            fields.data("commitment", COMMITMENT_BYTES),
            fields.data("signature", SIGNATURE_BYTES),
        )

    def encode(self) -> bytes:
        """As JSON, ``{"advert": [...]}``: the body of a device's first message."""
        return encode_json({"advert": self.to_json()})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote; raises `FormatError` alone, as all decoders here."""
        fields = Fields.parse(data, "advert", MAX_SMALL_BYTES)
        listed = fields.items("advert", 6)
        fields.done()
        return cls.from_json(listed)


@dataclass(frozen=True)
class Roster:
    """All adverts of a round, with the exact bytes in which they came: their digest names the roster.

    Attributes:
        members: By ascending id; the place in it is a device's position.
    """

    round_id: str
    terms_digest: str
    members: tuple[Advert, ...]
    data: bytes = field(repr=False)

    @classmethod
    def of(cls, round_id: str, terms_digest: str, adverts: Sequence[Advert]) -> Self:
        """The roster of these adverts, in whatever order they came."""
        members = tuple(sorted(adverts, key=lambda advert: advert.device_id))
        data = encode_json(
            {
                "round_id": round_id,
                "terms_digest": terms_digest,
                "members": [member.to_json() for member in members],
            }
        )
        return cls(round_id, terms_digest, members, data)

    def encode(self) -> bytes:
        """The very bytes that the digest is of."""
        return self.data

    @classmethod
    def decode(cls, data: bytes, members: int = MAX_MEMBERS) -> Self:
        """Read a roster of at most so many members, whose ids ascend."""
        fields = Fields.parse(data, "roster", _ENVELOPE_BYTES + members * _ADVERT_TEXT_BYTES)
        round_id, terms_digest = check_round_id(fields.text("round_id", 64)), fields.digest("terms_digest")
        listed = fields.items("members", members)
        fields.done()
        adverts = tuple(Advert.from_json(item) for item in listed)
        if any(one.device_id >= other.device_id for one, other in pairwise(adverts)):
            raise FormatError("roster: the members' ids must ascend, none twice")
        return cls(round_id, terms_digest, adverts, bytes(data))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the message's bytes."""
        return sha256_hex(self.data)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The members' ids, by position."""
        return tuple(member.device_id for member in self.members)

    def position_of(self, device_id: str) -> int | None:
        """Where a device stands; None for one that is not there."""
        place = bisect_left(self.ids, device_id)
        return place if place < len(self.ids) and self.ids[place] == device_id else None


@dataclass(frozen=True, slots=True)
class SealedShare:
    """Shares of one device's two secrets, sealed for one neighbour and signed by the sender.

    Attributes:
        peer: The other side's position: the receiver in what a device sends, the sender in what it gets.
    """

    peer: int
    sealed: bytes
    signature: bytes

    @classmethod
    def sign(
        cls, key: SigningKey, sealed: bytes, round_id: str, roster_digest: str, sender: int, receiver: int
    ) -> Self:
        """What `sender` sends for `receiver`."""
        statement = share_statement(round_id, roster_digest, sender, receiver, sealed)
        return cls(receiver, sealed, sign_statement(key, statement))

    def verify(
        self, public_key: bytes, round_id: str, roster_digest: str, sender: int, receiver: int
    ) -> None:
        """Raise `SignatureError` unless the sender, whose key this is, signed it for the receiver."""
        statement = share_statement(round_id, roster_digest, sender, receiver, self.sealed)
        verify_statement(public_key, statement, self.signature)

    def to_json(self) -> list[Any]:
        """As a JSON value."""
        return [self.peer, to_base64(self.sealed), to_base64(self.signature)]

    @classmethod
    def from_json(cls, value: object, members: int) -> Self:
        """Read what `to_json` gave."""
        fields = read_row(value, "sealed share", ("position", "sealed", "signature"))
        return cls(
            fields.integer("position", 0, members - 1),
            fields.data("sealed", SEALED_BYTES),
            fields.data("signature", SIGNATURE_BYTES),
        )


@dataclass(frozen=True, slots=True)
class SharesMessage:
    """A device's shares for all its neighbours, by ascending position."""

    roster_digest: str
    shares: tuple[SealedShare, ...]

    def encode(self) -> bytes:
        """As JSON."""
        listed = [share.to_json() for share in self.shares]
        return encode_json({"roster_digest": self.roster_digest, "shares": listed})

    @classmethod
    def decode(cls, data: bytes, members: int = MAX_MEMBERS) -> Self:
        """Read what `encode` wrote, in a round with so many members."""
        fields = Fields.parse(data, "shares", _ENVELOPE_BYTES + members * _SHARE_TEXT_BYTES)
        found = cls(fields.digest("roster_digest"), _read_shares(fields, members))
        fields.done()
        return found


@dataclass(frozen=True, slots=True)
class Mailbox:
    """What a device gets once the shares are there: who takes part, and its neighbours' shares for it."""

    roster_digest: str
    participants: tuple[int, ...]
    shares: tuple[SealedShare, ...]

    def encode(self) -> bytes:
        """As JSON."""
        return encode_json(
            {
                "roster_digest": self.roster_digest,
                "participants": list(self.participants),
                "shares": [share.to_json() for share in self.shares],
            }
        )

    @classmethod
    def decode(cls, data: bytes, members: int = MAX_MEMBERS) -> Self:
        """Read what `encode` wrote, in a round with so many members."""
        limit = _ENVELOPE_BYTES + members * (_SHARE_TEXT_BYTES + POSITION_TEXT_BYTES)
        fields = Fields.parse(data, "mailbox", limit)
        digest = fields.digest("roster_digest")
        found = cls(digest, read_positions(fields, "participants", members), _read_shares(fields, members))
        fields.done()
        return found


def read_row(value: object, what: str, names: tuple[str, ...]) -> Fields:
    """One entry of a list, itself a list: its values by name."""
    if not isinstance(value, list) or len(value) != len(names):
        raise FormatError(f"{what}: expected a list of {', '.join(names)}")
    return Fields(dict(zip(names, value, strict=True)), what)


def read_positions(fields: Fields, name: str, members: int) -> tuple[int, ...]:
    """A list of positions, ascending, none twice."""
    found = tuple(fields.items(name, members))
    if any(type(position) is not int or not 0 <= position < members for position in found):
        raise fields.wrong(name, f"positions from 0 to {members - 1}")
    check_ascending(found, fields, name)
    return found


def check_ascending(positions: Sequence[int], fields: Fields, name: str) -> None:
    """Raise `FormatError` unless positions ascend, none twice."""
    if any(one >= other for one, other in pairwise(positions)):
        raise fields.wrong(name, "by ascending position, none twice")


def _read_shares(fields: Fields, members: int) -> tuple[SealedShare, ...]:
    shares = tuple(SealedShare.from_json(item, members) for item in fields.items("shares", members))
    check_ascending([share.peer for share in shares], fields, "shares")
    return shares
