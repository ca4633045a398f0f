"""Small messages, offers and updates of both modes, tokens and keys, and the words of paths and queries."""

from __future__ import annotations

import base64
import contextlib
import warnings
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from emberfleet.agent.client import _raise_refusal, _TransientError, check_address
from emberfleet.core.codec import Fields, NotFiniteError, Scalar, encode_json
from emberfleet.core.errors import ConfigError, EmberError, FormatError, ShapeError, SignatureError
from emberfleet.core.messages import (
    OFFER_TYPE,
    EnrolReply,
    EnrolRequest,
    ErrorReply,
    ModelInfo,
    ModelReport,
    Reason,
    Receipt,
    RefusedError,
    UpdateHeader,
    Upload,
    UploadProgress,
    WorkReply,
    check_device_id,
    check_digest,
    check_number,
    check_round_id,
    check_version,
    device_id_of,
)
from emberfleet.core.offers import RoundOffer, RoundTerms, SecureTerms
from emberfleet.core.requests import check_body, sign_request, verify_head
from emberfleet.core.rotation import KeyChange, KeyChanged
from emberfleet.core.sealing import SealingKey, seal
from emberfleet.core.signing import SigningKey, VerifyKey, open_envelope, sign_envelope
from emberfleet.core.tokens import Token, check_pin, pin_of
from emberfleet.core.updates import (
    OutOfRangeError,
    TensorPlan,
    UpdatePlan,
    decode_update,
    read_update,
)
from emberfleet.server.aggregate.checks import check_update
from emberfleet.server.registry.policy import ReleasePolicy
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.tls import make_certificate
from tests.fuzz.fuzzing import Target

KEY, OTHER = SigningKey(bytes(range(32))), SigningKey(bytes(range(1, 33)))
ROUND, DEVICE, DIGEST = "5e" * 16, device_id_of(KEY.verify_key.raw), "c" * 64
MODEL = ModelInfo(4, DIGEST, 1000)
PLANS = {
    bits: UpdatePlan((TensorPlan("a", (5,), 0.5), TensorPlan("b", (2, 3), 2.0)), bits) for bits in (8, 16, 32)
}
NOW = 1_800_000_000.0


def _terms(secure: bool) -> RoundTerms:
    training: dict[str, Scalar] = {"epochs": 1, "rate": 0.05, "scope": "all", "augment": True}
    terms = SecureTerms(3, 0.1, 0.3) if secure else None
    key = None if secure else SealingKey(bytes(range(32))).public
    return RoundTerms(ROUND, 7, MODEL, PLANS[8 if secure else 32], training, 9, terms, key)


def _offers() -> list[RoundOffer]:
    return [RoundOffer(_terms(secure), DEVICE, 5.0, 60.0, 10.0) for secure in (True, False)]


def messages() -> list[Target]:
    """Control messages of both directions."""
    header = UpdateHeader(ROUND, 4, DEVICE, 5, {"loss": 0.5, "accuracy": 1.0})
    sealed = seal(SealingKey(bytes(range(32))).public, b"x" * 40, b"info", header.encode())
    values = [
        EnrolRequest("secret", KEY.verify_key.raw, "kitchen"),
        EnrolReply(DEVICE, KEY.verify_key.raw, (KEY.verify_key.raw, OTHER.verify_key.raw), b"{}"),
        MODEL,
        WorkReply(MODEL, _offers()[0].sign(KEY), 2.5),
        header,
        UploadProgress(5, 10, DIGEST),
        ModelReport(0.5, 0.75, 20, False),
        Receipt(ROUND, 3),
        ErrorReply(Reason.WRONG_OFFSET, "the chunk begins at 5", "Go on.", 1.5, 7),
        KeyChange.make(DEVICE, OTHER),
        KeyChanged(DEVICE),
    ]
    found = [_codec(type(value).__name__, value) for value in values]

    def framed(text: bytes) -> bytes:
        return Upload.join(text, sealed)

    body = framed(header.encode())
    found.append(Target("Upload", [body], Upload.decode))
    found.append(Target("Upload in its frame", [header.encode()], Upload.decode, wrap=framed))
    return found


def _codec(name: str, value: object) -> Target:
    kind = type(value)
    decode: Callable[[bytes], object] = kind.decode  # type: ignore[attr-defined]
    encode: Callable[[object], bytes] = kind.encode  # type: ignore[attr-defined]
    return Target(name, [encode(value)], decode, again=lambda found: decode(encode(found)))


def offers() -> list[Target]:
    """Offers, as their signature covers them."""
    made = _offers()
    terms = Target(
        "RoundTerms", [offer.terms.encode() for offer in made], RoundTerms.decode,
        again=lambda found: RoundTerms.decode(found.encode()),
    )  # fmt: skip
    inner = Target(
        "RoundOffer", [offer.encode() for offer in made], RoundOffer.decode,
        again=lambda found: RoundOffer.decode(found.encode()),
    )  # fmt: skip
    return [terms, inner]


def envelopes() -> list[Target]:
    """Signed envelopes: an Ed25519 signature is made or verified for each."""
    made = [offer.encode() for offer in _offers()]

    def signed(payload: bytes) -> bytes:
        return sign_envelope(OFFER_TYPE, payload, KEY)

    def opened(envelope: bytes) -> RoundOffer:
        return RoundOffer.open(envelope, KEY.verify_key.raw)

    trusted = [KEY.verify_key, OTHER.verify_key]
    return [
        Target("signed offer", made, opened, wrap=signed),
        Target(
            "envelope",
            [signed(b"{}")],
            lambda data: open_envelope(data, OFFER_TYPE, trusted),
            (FormatError, SignatureError),
        ),
    ]


def updates() -> list[Target]:
    """The numbers of an update, at each width."""
    refusals = (ShapeError, NotFiniteError, OutOfRangeError)
    found = []
    for bits, plan in PLANS.items():
        values = np.linspace(-0.4, 0.4, plan.size).astype(plan.wire_type)
        if bits != 32:
            values = np.arange(-5, plan.size - 5).astype(plan.wire_type)

        def read(data: bytes, plan: UpdatePlan = plan) -> None:
            numbers = read_update(data, plan)
            assert np.isfinite(numbers).all()
            for tensor in plan.tensors:
                assert (np.abs(decode_update(data, plan)[tensor.name]) <= tensor.clip * 1.0001).all()

        found.append(Target(f"update of {bits} bits", [values.tobytes()], read, refusals))
    exact = PLANS[32]
    header = UpdateHeader(ROUND, 4, DEVICE, 5)
    payload = np.zeros(exact.size, "<f4").tobytes()

    def admitted(data: bytes) -> None:
        numbers = check_update(data, header, exact, norm_bound=0.4, weight_bound=10)
        assert float(np.linalg.norm(numbers)) <= 0.4001

    found.append(Target("admission", [payload], admitted, (*refusals, RefusedError)))
    return found


def requests() -> list[Target]:
    """The three headers of a signed request, a line each, then the body."""

    def lines(method: str, target: str, body: bytes) -> bytes:
        headers = sign_request(KEY, DEVICE, method, target, body, NOW, bytes(16))
        lower = {name.lower(): value for name, value in headers.items()}
        names = ("content-digest", "signature-input", "signature")
        return "\n".join((target, *(lower[name] for name in names), body.decode("ascii"))).encode("ascii")

    def verified(data: bytes) -> None:
        target, digest, stated, signed, body = (*data.decode("latin-1").split("\n", 4), "", "", "", "")[:5]
        headers = {"content-digest": digest, "signature-input": stated, "signature": signed}
        head = verify_head(
            "POST", target, headers, NOW, lambda name: KEY.verify_key if name == DEVICE else None
        )
        check_body(head, body.encode("latin-1"))

    seeds = [lines("POST", "/v1/rounds/5e/keys?wait=5", b'{"a":1}'), lines("POST", "/v1/work", b"")]
    return [Target("request", seeds, verified, (RefusedError,))]


def words() -> list[Target]:
    """Tokens, keys, certificates, and what stands in paths and queries."""
    token = Token("c2VjcmV0", "f" * 32, pin_text())

    def text(read: Callable[[str], object]) -> Callable[[bytes], object]:
        return lambda data: read(data.decode("utf-8", "replace"))

    return [
        Target(
            "token", [token.text.encode(), b"secret"], text(Token.parse),
            again=lambda found: Token.parse(found.text),
        ),
        Target("pin", [pin_text().encode()], text(check_pin)),
        Target("public key", [KEY.verify_key.text.encode()], text(VerifyKey.from_text)),
        Target("round id", [ROUND.encode()], text(check_round_id)),
        Target("device id", [DEVICE.encode()], text(check_device_id)),
        Target("version", [b"7"], text(check_version)),
        Target("number", [b"1048576"], text(lambda found: check_number(found, "offset"))),
        Target("digest", [DIGEST.encode()], text(check_digest)),
        Target(
            "address", [b"https://fleet.example:8443", b"http://[::1]:80/"], text(check_address),
            (ConfigError,),
        ),
    ]  # fmt: skip


def pin_text() -> str:
    """The pin of a certificate that differs each time, as a fixed text."""
    return base64.urlsafe_b64encode(bytes(range(32))).decode("ascii").rstrip("=")


def keys() -> list[Target]:
    """What a library of C or Rust parses: certificates and private keys."""
    made = make_certificate(["localhost", "127.0.0.1"], datetime.fromtimestamp(NOW, UTC))
    first = made[made.index(b"-----BEGIN CERTIFICATE") :]

    def pinned(data: bytes) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            return pin_of(data)

    der = x509.load_pem_x509_certificate(first).public_bytes(Encoding.DER)
    return [
        Target("certificate", [der], pinned),
        Target("private key", [KEY.pem()], SigningKey.from_pem),
    ]


def settings() -> list[Target]:
    """The round plan and the policy of releases, as an owner's file has them."""
    plan, policy = RoundPlan(training={"rate": 0.1}), ReleasePolicy()
    return [
        Target(
            "RoundPlan", [encode_json(plan.to_json())],
            lambda data: RoundPlan.from_fields(Fields.parse(data, "round plan")), (FormatError, ConfigError),
            again=lambda found: RoundPlan.from_fields(Fields.of(found.to_json(), "round plan")),
        ),
        Target(
            "ReleasePolicy", [encode_json(policy.to_json())],
            lambda data: ReleasePolicy.from_fields(Fields.parse(data, "releases")),
            (FormatError, ConfigError),
            again=lambda found: ReleasePolicy.from_fields(Fields.of(found.to_json(), "releases")),
        ),
    ]  # fmt: skip


def refusals() -> list[Target]:
    """What a device makes of an answer that is none of success: status, date and body, a line each."""
    refused = ErrorReply(Reason.CLOCK, "the clock is off", "Set it.").encode()
    busy = ErrorReply(Reason.BUSY, "busy", "", 2.0).encode()
    date = b"Sat, 21 Nov 2026 11:00:00 GMT"

    def answered(data: bytes) -> None:
        status, told, body = (*data.split(b"\n", 2), b"", b"")[:3]
        number = int(status) if status.isdigit() and len(status) == 3 else 500
        response = httpx.Response(max(number, 300), headers=[(b"date", told)])
        with contextlib.suppress(EmberError, _TransientError):
            _raise_refusal(response, body)

    seeds = [b"\n".join((b"401", date, refused)), b"\n".join((b"503", date, busy))]
    return [Target("refusal", seeds, answered)]
