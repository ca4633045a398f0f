"""The messages of a secure round after the training: the masked update, and how its masks come out.

The rules are those of `core.secure.messages`: positions name devices, lists ascend, sizes are bounded by the
number of members. docs/protocol.md, section A secure round.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Self

from emberfleet.core.codec import Fields, encode_json, to_base64
from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import FormatError
from emberfleet.core.messages import (
    MAX_HEADER_BYTES,
    MAX_SMALL_BYTES,
    PROTOCOL,
    check_device_id,
    check_round_id,
)
from emberfleet.core.offers import MAX_MEMBERS
from emberfleet.core.secure.messages import POSITION_TEXT_BYTES, check_ascending, read_positions, read_row
from emberfleet.core.secure.shamir import SHARE_BYTES
from emberfleet.core.secure.statements import sign_statement, survivors_statement, verify_statement
from emberfleet.core.signing import SIGNATURE_BYTES, SigningKey

_MAGIC: Final = b"EFM1"
_ENVELOPE_BYTES: Final = 512
_SIGNATURE_TEXT_BYTES: Final = 128
_SHARE_TEXT_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class MaskedHeader:
    """What stands before a masked update: which round, model and group it belongs to, and whose it is."""

    round_id: str
    device_id: str
    model_version: int
    group_digest: str

    def encode(self) -> bytes:
        """As canonical JSON."""
        return encode_json(
            {
                "protocol": PROTOCOL,
                "round_id": self.round_id,
                "device_id": self.device_id,
                "model_version": self.model_version,
                "group_digest": self.group_digest,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote; raises `FormatError` alone, as all decoders here."""
        fields = Fields.parse(data, "masked update's header", MAX_HEADER_BYTES)
        fields.choice("protocol", (PROTOCOL,))
        found = cls(
            check_round_id(fields.text("round_id", 64)),
            check_device_id(fields.text("device_id", 64)),
            fields.integer("model_version", 1),
            fields.digest("group_digest"),
        )
        fields.done()
        return found


@dataclass(frozen=True, slots=True)
class MaskedUpdate:
    """The body of a secure round's upload: magic, length of the header, header, packed values.

    Attributes:
        packed: A view of the body, not a copy; exactly `SumLayout.size_bytes` in a good one.
    """

    header: MaskedHeader
    packed: memoryview = field(repr=False)

    @staticmethod
    def join(header: MaskedHeader, packed: bytes) -> bytes:
        """Put a header and the packed values into one body."""
        written = header.encode()
        return b"".join((_MAGIC, len(written).to_bytes(4, "big"), written, packed))

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Self:
        """Take a body apart."""
        view = memoryview(body).cast("B")
        if len(view) < 8 or bytes(view[:4]) != _MAGIC:
            raise FormatError("masked update: does not begin with EFM1 and the length of its header")
        length = int.from_bytes(view[4:8], "big")
        if not 1 <= length <= min(MAX_HEADER_BYTES, len(view) - 8):
            raise FormatError(
                f"masked update: a header of {length} bytes, expected 1 to {MAX_HEADER_BYTES} that follow"
            )
        return cls(MaskedHeader.decode(bytes(view[8 : 8 + length])), view[8 + length :])


def max_masked_bytes(packed_bytes: int) -> int:
    """The largest body whose packed values have this length."""
    return 8 + MAX_HEADER_BYTES + packed_bytes


@dataclass(frozen=True, slots=True)
class Survivors:
    """Whose updates are in the sum and whose are not: together the participants."""

    group_digest: str
    survivors: tuple[int, ...]
    vanished: tuple[int, ...]

    def encode(self) -> bytes:
        """As canonical JSON."""
        return encode_json(
            {
                "group_digest": self.group_digest,
                "survivors": list(self.survivors),
                "vanished": list(self.vanished),
            }
        )

    @classmethod
    def decode(cls, data: bytes, members: int = MAX_MEMBERS) -> Self:
        """Read what `encode` wrote; that no position stands in both lists is for the device to check."""
        fields = Fields.parse(data, "survivors", _ENVELOPE_BYTES + 2 * members * POSITION_TEXT_BYTES)
        found = cls(
            fields.digest("group_digest"),
            read_positions(fields, "survivors", members),
            read_positions(fields, "vanished", members),
        )
        fields.done()
        return found

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: what a confirmation signs."""
        return sha256_hex(self.encode())


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A survivor's word that it was told this set, and will hear of no other."""

    survivors_digest: str
    signature: bytes

    @classmethod
    def sign(cls, key: SigningKey, round_id: str, survivors_digest: str) -> Self:
        """Confirm a set."""
        return cls(survivors_digest, sign_statement(key, survivors_statement(round_id, survivors_digest)))

    def verify(self, public_key: bytes, round_id: str) -> None:
        """Raise `SignatureError` unless the device with this key confirmed the set."""
        verify_statement(public_key, survivors_statement(round_id, self.survivors_digest), self.signature)

    def encode(self) -> bytes:
        """As JSON."""
        return encode_json(
            {"survivors_digest": self.survivors_digest, "signature": to_base64(self.signature)}
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote."""
        fields = Fields.parse(data, "confirmation", MAX_SMALL_BYTES)
        found = cls(fields.digest("survivors_digest"), fields.data("signature", SIGNATURE_BYTES))
        fields.done()
        return found


@dataclass(frozen=True, slots=True)
class Confirmations:
    """The survivors' signatures by position; each device checks them over the set that it confirmed."""

    signatures: tuple[tuple[int, bytes], ...]

    def encode(self) -> bytes:
        """As JSON."""
        listed = [[position, to_base64(signature)] for position, signature in self.signatures]
        return encode_json({"confirmations": listed})

    @classmethod
    def decode(cls, data: bytes, members: int = MAX_MEMBERS) -> Self:
        """Read what `encode` wrote, in a round with so many members."""
        fields = Fields.parse(data, "confirmations", _ENVELOPE_BYTES + members * _SIGNATURE_TEXT_BYTES)
        found = _read_pairs(fields, "confirmations", members, SIGNATURE_BYTES)
        fields.done()
        return cls(found)


@dataclass(frozen=True, slots=True)
class Disclosure:
    """The shares with which masks are taken out: of each neighbour one, never both.

    Attributes:
        own: Of each neighbour that survived, the share of the secret behind its own mask.
        key: Of each that vanished, the share of its mask key's secret half.
    """

    survivors_digest: str
    own: tuple[tuple[int, bytes], ...] = field(repr=False)
    key: tuple[tuple[int, bytes], ...] = field(repr=False)

    def encode(self) -> bytes:
        """As JSON."""

        def listed(shares: tuple[tuple[int, bytes], ...]) -> list[list[Any]]:
            return [[position, to_base64(share)] for position, share in shares]

        return encode_json(
            {"survivors_digest": self.survivors_digest, "own": listed(self.own), "key": listed(self.key)}
        )

    @classmethod
    def decode(cls, data: bytes, members: int = MAX_MEMBERS) -> Self:
        """Read what `encode` wrote, in a round with so many members."""
        fields = Fields.parse(data, "disclosure", _ENVELOPE_BYTES + members * _SHARE_TEXT_BYTES)
        found = cls(
            fields.digest("survivors_digest"),
            _read_pairs(fields, "own", members, SHARE_BYTES),
            _read_pairs(fields, "key", members, SHARE_BYTES),
        )
        fields.done()
        both = {position for position, _ in found.own} & {position for position, _ in found.key}
        if both:
            raise FormatError(f"disclosure: both kinds of share of position {min(both)}, expected one")
        return found


def _read_pairs(fields: Fields, name: str, members: int, size: int) -> tuple[tuple[int, bytes], ...]:
    rows = [read_row(item, name, ("position", "data")) for item in fields.items(name, members)]
    found = tuple((row.integer("position", 0, members - 1), row.data("data", size)) for row in rows)
    check_ascending([position for position, _ in found], fields, name)
    return found
