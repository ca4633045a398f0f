"""Request signatures: RFC 9421 with Ed25519, over what a device asks and what it sends.

Covered: method, path, query and the digest of the body (RFC 9530), with creation time, a nonce of 16
random bytes and the device's id as key id. Host and scheme are left out, so a request stays authentic
behind a proxy; a device's key serves one server alone, so it cannot be carried to another.

The order of the checks: `verify_head` trusts nothing but headers, so a stranger's body is never read;
the caller then looks the nonce up and reads the body, and `check_body` compares its digest.

A device signs with the library. The server takes the one form that docs/protocol.md allows, one signature
over these components in this order, and writes the signature base down itself: to parse every form that
RFC 9421 allows took twice as long as to verify the signature. A test holds both to each other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from http_message_signatures import HTTPMessageSigner, HTTPSignatureAlgorithm, HTTPSignatureKeyResolver

from emberfleet.core.errors import SignatureError
from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.signing import SigningKey, VerifyKey

TAG: Final = "emberfleet-1"
CLOCK_WINDOW_S: Final = 300.0
"""How far a device's clock may be off; a nonce must be remembered for twice as long."""
NONCE_BYTES: Final = 16
MAX_SIGNATURE_HEADER: Final = 1024
COVERED: Final = ("@method", "@path", "@query", "content-digest")
SIGNATURE_HEADERS: Final = ("content-digest", "signature-input", "signature")
_LABEL: Final = r"(?P<label>[a-z][a-z0-9_-]{0,20})"
_LISTED: Final = r"\(" + " ".join(f'"{name}"' for name in COVERED) + r"\)"
_INPUT: Final = re.compile(
    _LABEL + rf"=(?P<params>{_LISTED}" + r'(?P<rest>(?:;[a-z]+=(?:[0-9]{1,12}|"[!#-\[\]-~]*"))+))'
)
_PARAMETER: Final = re.compile(r';([a-z]+)=(?:([0-9]+)|"([^"]*)")')
_SIGNATURE: Final = re.compile(_LABEL + r"=:(?P<value>[A-Za-z0-9+/]{86}==):")


@dataclass(frozen=True, slots=True)
class SignedHead:
    """Who sent a request, proven; its body is still to be compared with the digest."""

    device_id: str
    nonce: str
    created: float
    content_digest: str


@dataclass(slots=True)
class _Message:
    """A request as the signature library wants to see it."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)


class _Ed25519(HTTPSignatureAlgorithm):
    """The algorithm of RFC 9421, section 3.3.6, over this package's key."""

    algorithm_id = "ed25519"

    def __init__(self, public_key: object = None, private_key: SigningKey | None = None) -> None:
        self._private_key = private_key

    def sign(self, message: bytes) -> bytes:
        assert self._private_key is not None
        return self._private_key.sign(message)


@dataclass(frozen=True, slots=True)
class _OneKey(HTTPSignatureKeyResolver):
    key: SigningKey

    def resolve_private_key(self, key_id: str) -> SigningKey:
        return self.key


def sign_request(
    key: SigningKey,
    device_id: str,
    method: str,
    target: str,
    body: bytes,
    now: float,
    nonce: bytes | None = None,
) -> dict[str, str]:
    """The three headers that make a request a device's own.

    Args:
        key: The device's key.
        device_id: Goes in as the key id.
        method: GET, POST ...
        target: Path and query as they go on the wire.
        body: The whole body; empty for none.
        now: Seconds since 1970.
        nonce: `NONCE_BYTES` that were never used before; random when not given.
    """
    signer = HTTPMessageSigner(signature_algorithm=_Ed25519, key_resolver=_OneKey(key))
    message = _Message(method, f"http://server{target}")
    drawn = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
    signer.sign(
        message,
        key_id=device_id,
        created=datetime.fromtimestamp(now, UTC),
        nonce=base64.b64encode(drawn).decode("ascii"),
        tag=TAG,
        label="ember",
        covered_component_ids=COVERED,
        body=body,
    )
    return message.headers


def verify_head(
    method: str,
    target: str,
    headers: Mapping[str, str],
    now: float,
    find_key: Callable[[str], VerifyKey | None],
) -> SignedHead:
    """Check who sent a request, before its body is read.

    Args:
        method: As received.
        target: Path and query as received.
        headers: Of the request, by lower-case name; only `SIGNATURE_HEADERS` are looked at.
        now: Seconds since 1970.
        find_key: Gives a device's key, or None for a stranger.

    Raises:
        RefusedError: BAD_SIGNATURE, NOT_ENROLLED or CLOCK.
    """
    digest, stated, signed = (headers.get(name, "") for name in SIGNATURE_HEADERS)
    if max(len(digest), len(stated), len(signed)) > MAX_SIGNATURE_HEADER:
        raise _bad_signature()
    match, signature = _INPUT.fullmatch(stated), _SIGNATURE.fullmatch(signed)
    if match is None or signature is None or match["label"] != signature["label"]:
        raise _bad_signature()
    listed = _PARAMETER.findall(match["rest"])
    numbers = {name: int(number) for name, number, _ in listed if number}
    texts = {name: text for name, number, text in listed if not number}
    created, nonce, device_id = numbers.get("created"), texts.get("nonce", ""), texts.get("keyid", "")
    if len(listed) != len(numbers | texts) or created is None or texts.get("tag") != TAG:
        raise _bad_signature()
    if not 16 <= len(nonce) <= 64 or texts.get("alg", _Ed25519.algorithm_id) != _Ed25519.algorithm_id:
        raise _bad_signature()
    key = find_key(device_id)
    if key is None:
        raise RefusedError(
            Reason.NOT_ENROLLED,
            "this device is not enrolled here",
            "Enrol it with a token: emberfleet device enrol.",
        )
    try:
        base = _signature_base(method, target, digest, match["params"]).encode("ascii")
        key.verify(binascii.a2b_base64(signature["value"]), base)
    except (SignatureError, ValueError) as error:
        raise _bad_signature() from error
    if abs(now - created) > CLOCK_WINDOW_S:
        raise RefusedError(
            Reason.CLOCK,
            f"the request was signed {now - created:.0f} s ago by the server's clock, expected at most "
            f"{CLOCK_WINDOW_S:.0f} s",
            "Set the device's clock.",
        )
    return SignedHead(device_id, nonce, float(created), digest)


def check_body(head: SignedHead, body: bytes) -> None:
    """Raise `RefusedError` (BAD_SIGNATURE) unless `body` is what the signature covers."""
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode("ascii")
    if not hmac.compare_digest(head.content_digest.encode(), f"sha-256=:{digest}:".encode()):
        raise _bad_signature()


def _signature_base(method: str, target: str, digest: str, parameters: str) -> str:
    """What is signed (RFC 9421, section 2.5), for the components in `COVERED`."""
    path, _, query = target.partition("?")
    values = (method, path, f"?{query}", digest)
    lines = [f'"{name}": {value}' for name, value in zip(COVERED, values, strict=True)]
    return "\n".join((*lines, f'"@signature-params": {parameters}'))


def _bad_signature() -> RefusedError:
    return RefusedError(
        Reason.BAD_SIGNATURE,
        "the request's signature does not verify",
        "Sign the request with the key that this device enrolled with.",
    )
