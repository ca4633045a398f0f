"""Every message between a device and the server, as values with strict codecs.

Control messages are canonical JSON (`core.codec`); an upload is a small header and the sealed update
behind it. What a server says that a device must not be fooled about, a round's offer (`core.offers`),
travels in a DSSE envelope signed by the server's key, so it is authentic without TLS too. Fields, limits
and the order of messages are specified in docs/protocol.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self

from emberfleet.core.codec import MAX_INTEGER, Fields, encode_json, to_base64
from emberfleet.core.errors import EmberError, FormatError

if TYPE_CHECKING:
    from emberfleet.core.updates import UpdatePlan

PROTOCOL: Final = "emberfleet/1"
SEAL_INFO: Final = b"emberfleet/1 sealed update"
OFFER_TYPE: Final = "application/vnd.emberfleet.round-offer+json"
KEY_BYTES: Final = 32
MAX_SMALL_BYTES: Final = 16 * 1024
MAX_HEADER_BYTES: Final = 8 * 1024
MAX_SAMPLES: Final = 1_000_000
"""Largest weight one device may claim."""
MAX_BUNDLE_BYTES: Final = 256 << 20
MAX_CHUNK_BYTES: Final = 1 << 20
"""Most bytes of an upload in one request."""
MAX_SECONDS: Final = 30 * 24 * 3600.0
MAX_TRUSTED_KEYS: Final = 8
MAX_ROOT_BYTES: Final = 8 * 1024
"""Largest metadata of a TUF root."""
_UPLOAD_MAGIC: Final = b"EFU1"
_DEVICE_ID: Final = re.compile(r"[0-9a-f]{32}")
_ROUND_ID: Final = re.compile(r"[0-9a-f]{32}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class Reason(StrEnum):
    """Why a request was refused, as the wire says it. The server maps each to its HTTP status."""

    MALFORMED = "malformed"
    WRONG_LENGTH = "wrong_length"
    WRONG_OFFSET = "wrong_offset"
    WRONG_DIGEST = "wrong_digest"
    IN_ROUND = "in_round"
    BAD_SIGNATURE = "bad_signature"
    NOT_ENROLLED = "not_enrolled"
    CLOCK = "clock"
    REPLAYED = "replayed"
    REVOKED = "revoked"
    BAD_TOKEN = "bad_token"  # noqa: S105
    NOT_IN_COHORT = "not_in_cohort"
    NOT_FOUND = "not_found"
    METHOD = "method"
    OTHER_ROUND = "other_round"
    OTHER_MODEL = "other_model"
    ALREADY_ACCEPTED = "already_accepted"
    LATE = "late"
    LENGTH_REQUIRED = "length_required"
    TOO_LARGE = "too_large"
    NOT_FINITE = "not_finite"
    OUT_OF_RANGE = "out_of_range"
    NORM = "norm"
    WEIGHT = "weight"
    NOT_SEALED = "not_sealed"
    RANGE = "range"
    STORAGE = "storage"
    SLOW = "slow"
    BUSY = "busy"
    INTERNAL = "internal"


class RefusedError(EmberError):
    """A request that the server refuses; carries the reason and what the device can do.

    Attributes:
        reason: The word for programs.
        advice: What to do.
        retry_after_s: When to come again, where that helps.
        received: How much of an upload is there, where its next chunk began elsewhere.
    """

    def __init__(
        self,
        reason: Reason,
        text: str,
        advice: str = "",
        retry_after_s: float | None = None,
        received: int | None = None,
    ) -> None:
        super().__init__(text)
        self.reason = reason
        self.advice = advice
        self.retry_after_s = retry_after_s
        self.received = received


def device_id_of(public_key: bytes) -> str:
    """The name of a device: the first half of its key's SHA-256, so nobody can choose another's."""
    return hashlib.sha256(public_key).hexdigest()[:32]


def fingerprint_of(server_key: bytes, bundle_keys: tuple[bytes, ...], root: bytes) -> str:
    """What an enrolment token carries so that a device recognises the server it was made for."""
    parts = (server_key, *sorted(bundle_keys), hashlib.sha256(root).digest())
    return hashlib.sha256(b"".join(parts)).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class EnrolRequest:
    """A new device asks to be let in; the request is signed by the key it brings."""

    token: str
    public_key: bytes
    name: str

    def encode(self) -> bytes:
        """As JSON."""
        return encode_json({"token": self.token, "public_key": to_base64(self.public_key), "name": self.name})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote; raises `FormatError` alone, as all decoders here."""
        fields = Fields.parse(data, "enrol request", MAX_SMALL_BYTES)
        found = cls(fields.text("token", 100), fields.data("public_key", KEY_BYTES), fields.text("name", 80))
        fields.done()
        return found

    def __repr__(self) -> str:
        return f"EnrolRequest({self.name!r})"


@dataclass(frozen=True, slots=True)
class EnrolReply:
    """What an enrolled device keeps: its name, the keys it will trust, and the first TUF root."""

    device_id: str
    server_key: bytes
    bundle_keys: tuple[bytes, ...]
    root: bytes

    def encode(self) -> bytes:
        """As JSON."""
        return encode_json(
            {
                "protocol": PROTOCOL,
                "device_id": self.device_id,
                "server_key": to_base64(self.server_key),
                "bundle_keys": [to_base64(key) for key in self.bundle_keys],
                "root": to_base64(self.root),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote."""
        fields = Fields.parse(data, "enrol reply", MAX_SMALL_BYTES)
        fields.choice("protocol", (PROTOCOL,))
        device_id = _matched(fields, "device_id", _DEVICE_ID)
        server_key = fields.data("server_key", KEY_BYTES)
        listed = fields.items("bundle_keys", MAX_TRUSTED_KEYS)
        root = fields.data("root", max_bytes=MAX_ROOT_BYTES)
        fields.done()
        keys = tuple(Fields({"key": item}, "enrol reply").data("key", KEY_BYTES) for item in listed)
        return cls(device_id, server_key, keys, root)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which model is published: fetch it when it is newer than the one at hand."""

    version: int
    digest: str
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        return {"version": self.version, "digest": self.digest, "size_bytes": self.size_bytes}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read what `to_json` gave."""
        found = cls(
            fields.integer("version", 1),
            fields.digest("digest"),
            fields.integer("size_bytes", 1, MAX_BUNDLE_BYTES),
        )
        fields.done()
        return found

    def encode(self) -> bytes:
        """As JSON."""
        return encode_json(self.to_json())

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote."""
        return cls.from_fields(Fields.parse(data, "model", MAX_SMALL_BYTES))


@dataclass(frozen=True, slots=True)
class WorkReply:
    """The answer to a device that asks for work: the model to have, and perhaps a round's offer.

    Attributes:
        offer: The signed envelope of a `core.offers.RoundOffer`, or None: nothing to do now.
        retry_after_s: How long to wait before asking again.
    """

    model: ModelInfo
    offer: bytes | None = None
    retry_after_s: float = 0.0

    def encode(self) -> bytes:
        """As JSON; the envelope is JSON itself and goes in as text."""
        offer = None if self.offer is None else {"envelope": to_base64(self.offer)}
        return encode_json(
            {"model": self.model.to_json(), "offer": offer, "retry_after_s": self.retry_after_s}
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote; the offer inside is not trusted before `RoundOffer.open`."""
        fields = Fields.parse(data, "work reply", 4 << 20)
        model = ModelInfo.from_fields(fields.nested("model", "work reply's model"))
        nested = fields.optional("offer", "work reply's offer")
        retry_after_s = fields.number("retry_after_s", 0, MAX_SECONDS)
        fields.done()
        offer = None
        if nested is not None:
            offer = nested.data("envelope", max_bytes=2 << 20)
            nested.done()
        return cls(model, offer, retry_after_s)


@dataclass(frozen=True, slots=True)
class UpdateHeader:
    """What stands before a sealed update, and is bound to it as associated data."""

    round_id: str
    model_version: int
    device_id: str
    sample_count: int
    metrics: Mapping[str, float] = field(default_factory=dict)

    def encode(self) -> bytes:
        """As canonical JSON: these very bytes are the associated data of the seal."""
        return encode_json(
            {
                "protocol": PROTOCOL,
                "round_id": self.round_id,
                "model_version": self.model_version,
                "device_id": self.device_id,
                "sample_count": self.sample_count,
                "metrics": dict(self.metrics),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote."""
        fields = Fields.parse(data, "update header", MAX_HEADER_BYTES)
        fields.choice("protocol", (PROTOCOL,))
        found = cls(
            round_id=_matched(fields, "round_id", _ROUND_ID),
            model_version=fields.integer("model_version", 1),
            device_id=_matched(fields, "device_id", _DEVICE_ID),
            sample_count=fields.integer("sample_count", 1, MAX_SAMPLES),
            metrics=fields.numbers("metrics", 16),
        )
        fields.done()
        return found


@dataclass(frozen=True, slots=True)
class Upload:
    """The body of an upload: magic, length of the header, header, sealed update."""

    header: UpdateHeader
    associated_data: bytes
    sealed: bytes

    @staticmethod
    def join(header: bytes, sealed: bytes) -> bytes:
        """Put the encoded header and the sealed update into one body."""
        return b"".join((_UPLOAD_MAGIC, len(header).to_bytes(4, "big"), header, sealed))

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Take a body apart; the seal is not opened here."""
        if len(body) < 8 or body[:4] != _UPLOAD_MAGIC:
            raise FormatError("upload: does not begin with EFU1 and the length of its header")
        length = int.from_bytes(body[4:8], "big")
        if not 1 <= length <= min(MAX_HEADER_BYTES, len(body) - 8):
            raise FormatError(
                f"upload: a header of {length} bytes, expected 1 to {MAX_HEADER_BYTES} that follow"
            )
        associated_data = body[8 : 8 + length]
        return cls(UpdateHeader.decode(associated_data), associated_data, body[8 + length :])


def max_upload_bytes(plan: UpdatePlan, seal_overhead: int) -> int:
    """The largest body an upload of this plan can have."""
    return 8 + MAX_HEADER_BYTES + plan.size_bytes + seal_overhead


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """How much of an upload the server has: where the next chunk begins.

    Attributes:
        received: Bytes there, from the beginning.
        size: Bytes of the whole upload; 0 where nothing came yet.
        digest: SHA-256 of the whole upload, as announced; empty where nothing came yet.
    """

    received: int
    size: int
    digest: str

    def encode(self) -> bytes:
        """As JSON."""
        return encode_json({"received": self.received, "size": self.size, "digest": self.digest})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote."""
        fields = Fields.parse(data, "upload progress", MAX_SMALL_BYTES)
        found = cls(fields.integer("received"), fields.integer("size"), fields.text("digest", 64, default=""))
        fields.done()
        return found


@dataclass(frozen=True, slots=True)
class ModelReport:
    """How a new model did on a device, beside the one that served before.

    Attributes:
        accuracy: Share of the device's held-out samples that the new model gets right.
        accuracy_before: The same of the model that served.
        samples: How many they were.
        kept: True where the new model serves from here on, False where the device went back.
    """

    accuracy: float
    accuracy_before: float
    samples: int
    kept: bool

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        return {
            "accuracy": self.accuracy,
            "accuracy_before": self.accuracy_before,
            "samples": self.samples,
            "kept": self.kept,
        }

    def encode(self) -> bytes:
        """As JSON."""
        return encode_json(self.to_json())

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read what `to_json` gave."""
        found = cls(
            accuracy=fields.number("accuracy", 0, 1),
            accuracy_before=fields.number("accuracy_before", 0, 1),
            samples=fields.integer("samples", 1, MAX_SAMPLES),
            kept=fields.boolean("kept"),
        )
        fields.done()
        return found

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote."""
        return cls.from_fields(Fields.parse(data, "model report", MAX_SMALL_BYTES))


@dataclass(frozen=True, slots=True)
class Receipt:
    """The server has the update; it counts once, however often it is sent."""

    round_id: str
    accepted: int

    def encode(self) -> bytes:
        """As JSON."""
        return encode_json({"round_id": self.round_id, "accepted": self.accepted})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote."""
        fields = Fields.parse(data, "receipt", MAX_SMALL_BYTES)
        found = cls(_matched(fields, "round_id", _ROUND_ID), fields.integer("accepted"))
        fields.done()
        return found


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """Why a request was refused: a word for programs, a sentence for people, and what to do."""

    reason: Reason
    error: str
    advice: str = ""
    retry_after_s: float | None = None
    received: int | None = None

    def encode(self) -> bytes:
        """As JSON."""
        found: dict[str, Any] = {"reason": self.reason.value, "error": self.error, "advice": self.advice}
        if self.retry_after_s is not None:
            found["retry_after_s"] = self.retry_after_s
        if self.received is not None:
            found["received"] = self.received
        return encode_json(found)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote."""
        fields = Fields.parse(data, "error reply", MAX_SMALL_BYTES)
        reason = Reason(fields.choice("reason", tuple(reason.value for reason in Reason)))
        error, advice = fields.text("error", 1000), fields.text("advice", 1000, default="")
        retry_after_s = fields.number("retry_after_s", -1, MAX_SECONDS, default=-1.0)
        received = fields.integer("received", -1, default=-1)
        fields.done()
        return cls(
            reason,
            error,
            advice,
            None if retry_after_s < 0 else retry_after_s,
            None if received < 0 else received,
        )


def check_round_id(text: str) -> str:
    """A round's id as it stands in a path; raises `FormatError` for anything else."""
    if not _ROUND_ID.fullmatch(text):
        raise FormatError("round id: expected 32 hexadecimal digits")
    return text


def check_device_id(text: str) -> str:
    """A device's id; raises `FormatError` for anything else."""
    if not _DEVICE_ID.fullmatch(text):
        raise FormatError("device id: expected 32 hexadecimal digits")
    return text


def check_version(text: str) -> int:
    """A model's version as it stands in a path or query."""
    return check_number(text, "model version")


def check_number(text: str, what: str) -> int:
    """A whole number as it stands in a path or query."""
    if not text.isascii() or not text.isdigit() or len(text) > 16 or int(text) > MAX_INTEGER:
        raise FormatError(f"{what}: expected a whole number")
    return int(text)


def check_digest(text: str) -> str:
    """A SHA-256 digest as it stands in a query."""
    if not _DIGEST.fullmatch(text):
        raise FormatError("digest: expected 64 hexadecimal digits")
    return text


def _matched(fields: Fields, name: str, pattern: re.Pattern[str]) -> str:
    value = fields.text(name, 64)
    if not pattern.fullmatch(value):
        raise fields.wrong(name, "32 hexadecimal digits")
    return value
