"""A round's terms, which all its devices must agree on, and the offer of a place in it.

The terms say what is trained, on which model and how the updates are protected: summed under masks
(`SecureTerms`), or each sealed to a key of the round. Their digest is signed by every device of a secure
round, so a server that tells two devices different things gets nothing that fits together. An offer
travels in a DSSE envelope under the server's key. docs/protocol.md, sections A secure round and Requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

from emberfleet.core.codec import Fields, Scalar, encode_json, to_base64
from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import FormatError, ShapeError
from emberfleet.core.messages import (
    KEY_BYTES,
    MAX_SAMPLES,
    MAX_SECONDS,
    OFFER_TYPE,
    PROTOCOL,
    ModelInfo,
    check_device_id,
    check_round_id,
)
from emberfleet.core.signing import SigningKey, VerifyKey, open_envelope, sign_envelope
from emberfleet.core.updates import UpdatePlan

LEAST_CORRUPT_SHARE: Final = 0.05
MOST_DROPOUT_SHARE: Final = 0.5
"""What every device counts on: terms with fewer corrupt or more vanishing ones make thresholds so low that a
few devices of the server's own reach them."""
MAX_MEMBERS: Final = 10_000
"""Largest cohort of a secure round."""


class Mode(StrEnum):
    """How a round protects its updates."""

    SECURE = "secure"
    SEALED = "sealed"


@dataclass(frozen=True, slots=True)
class SecureTerms:
    """What the devices of a secure round agree on beside the training.

    Attributes:
        minimum: Fewest updates in the sum.
        corrupt_share: Share of the cohort that may work with the server, below 1.
        dropout_share: Share of the cohort that may vanish, below 1.
        heaviest: The largest weight of a device; 1: all weigh the same.
        coordinates: Share of the update's coordinates that is sent, above 0 to 1.
    """

    minimum: int
    corrupt_share: float = 0.05
    dropout_share: float = 0.3
    heaviest: int = 1
    coordinates: float = 1.0

    @property
    def lax(self) -> bool:
        """Whether a device leaves such terms: they make thresholds too low."""
        return self.corrupt_share < LEAST_CORRUPT_SHARE or self.dropout_share > MOST_DROPOUT_SHARE

    def to_json(self) -> dict[str, Any]:
        """As JSON values, among the other terms."""
        return {
            "minimum": self.minimum,
            "corrupt_share": float(self.corrupt_share),
            "dropout_share": float(self.dropout_share),
            "heaviest": self.heaviest,
            "coordinates": float(self.coordinates),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read what `to_json` gave; other fields stay where they are."""
        return cls(
            minimum=fields.integer("minimum", 1, MAX_MEMBERS),
            corrupt_share=fields.number("corrupt_share", 0, 1),
            dropout_share=fields.number("dropout_share", 0, 1),
            heaviest=fields.integer("heaviest", 1, MAX_SAMPLES),
            coordinates=fields.number("coordinates", 2**-32, 1),
        )


@dataclass(frozen=True, slots=True)
class RoundTerms:
    """What all devices of a round must agree on.

    Attributes:
        number: Counts the server's rounds from 1.
        training: Settings of the retraining, read by the runtime (scope, epochs, rate ...).
        seed: Seed of this round; a device derives its own from it.
        secure: How updates are summed under masks; None in a sealed round.
        round_key: The X25519 public key that updates of a sealed round are sealed to; None in a secure one.
    """

    round_id: str
    number: int
    model: ModelInfo
    update: UpdatePlan
    training: Mapping[str, Scalar]
    seed: int
    secure: SecureTerms | None = None
    round_key: bytes | None = None

    def __post_init__(self) -> None:
        if (self.secure is None) == (self.round_key is None):
            raise ShapeError("round terms: expected secure terms or a round key, one of both")
        if self.secure is not None and self.update.bits > 16:
            raise ShapeError(f"round terms: {self.update.bits} bits in a secure round, expected 8 or 16")

    @property
    def mode(self) -> Mode:
        """How updates are protected."""
        return Mode.SEALED if self.secure is None else Mode.SECURE

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: what adverts are signed for."""
        return sha256_hex(self.encode())

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        found = {
            "protocol": PROTOCOL,
            "mode": self.mode.value,
            "round_id": self.round_id,
            "number": self.number,
            "model": self.model.to_json(),
            "update": self.update.to_json(),
            "training": dict(self.training),
            "seed": self.seed,
        }
        if self.secure is not None:
            return found | self.secure.to_json()
        assert self.round_key is not None
        return found | {"round_key": to_base64(self.round_key)}

    def encode(self) -> bytes:
        """As canonical JSON."""
        return encode_json(self.to_json())

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote; raises `FormatError` alone."""
        return cls.from_fields(Fields.parse(data, "round terms"))

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read what `to_json` gave; raises `FormatError` alone."""
        fields.choice("protocol", (PROTOCOL,))
        mode = Mode(fields.choice("mode", tuple(Mode)))
        round_id = check_round_id(fields.text("round_id", 64))
        number = fields.integer("number", 1)
        model = ModelInfo.from_fields(fields.nested("model", "round terms' model"))
        update = UpdatePlan.from_fields(fields.nested("update", "round terms' update plan"))
        training, seed = fields.scalars("training"), fields.integer("seed")
        secure = SecureTerms.from_fields(fields) if mode is Mode.SECURE else None
        round_key = fields.data("round_key", KEY_BYTES) if mode is Mode.SEALED else None
        fields.done()
        try:
            return cls(round_id, number, model, update, training, seed, secure, round_key)
        except ShapeError as error:
            raise FormatError(str(error)) from error


@dataclass(frozen=True, slots=True)
class RoundOffer:
    """A place in a round: its terms, for one device, and until when.

    Attributes:
        lease_s: The device must be heard at least this often while it trains; 0 for never.
        deadline_s: Seconds that are left for training and upload, counted in a sealed round from when the
            offer was made, in a secure one from when its shares are answered; no clocks need to agree.
        keys_s: Seconds that are left to send keys; 0 in a sealed round.
    """

    terms: RoundTerms
    device_id: str
    lease_s: float
    deadline_s: float
    keys_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        return {
            "terms": self.terms.to_json(),
            "device_id": self.device_id,
            "lease_s": self.lease_s,
            "deadline_s": self.deadline_s,
            "keys_s": self.keys_s,
        }

    def sign(self, key: SigningKey) -> bytes:
        """The offer in an envelope signed by the server."""
        return sign_envelope(OFFER_TYPE, self.encode(), key)

    @classmethod
    def open(cls, envelope: bytes, server_key: bytes) -> Self:
        """Check the server's signature, then read the offer.

        Raises:
            SignatureError: Not signed by `server_key`.
            FormatError: Signed, and yet not an offer of this protocol.
        """
        return cls.decode(open_envelope(envelope, OFFER_TYPE, [VerifyKey(server_key)]))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the JSON inside the envelope."""
        return cls.from_fields(Fields.parse(data, "round offer"))

    def encode(self) -> bytes:
        """As canonical JSON."""
        return encode_json(self.to_json())

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read what `to_json` gave; raises `FormatError` alone."""
        found = cls(
            terms=RoundTerms.from_fields(fields.nested("terms", "round terms")),
            device_id=check_device_id(fields.text("device_id", 64)),
            lease_s=fields.number("lease_s", 0, MAX_SECONDS),
            deadline_s=fields.number("deadline_s", 0, MAX_SECONDS),
            keys_s=fields.number("keys_s", 0, MAX_SECONDS),
        )
        fields.done()
        return found
