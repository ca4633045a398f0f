"""Request signatures: RFC 9421 with Ed25519, over what a device asks and what it sends.

Covered: method, path, query and the digest of the body (RFC 9530), with creation time, a nonce of 16
random bytes and the device's id as key id. Host and scheme are left out, so a request stays authentic
behind a proxy; a device's key serves one server alone, so it cannot be carried to another.

The order of the checks: `verify_head` trusts nothing but headers, so a stranger's body is never read;
the caller then looks the nonce up and reads the body, and `check_body` compares its digest.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from http_message_signatures import (
    ContentDigest,
    HTTPMessageSignaturesException,
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureAlgorithm,
    HTTPSignatureKeyResolver,
    InvalidSignature,
)

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
    """The algorithm of RFC 9421, section 3.3.6, over this package's key types."""

    algorithm_id = "ed25519"

    def __init__(self, public_key: VerifyKey | None = None, private_key: SigningKey | None = None) -> None:
        self._public_key, self._private_key = public_key, private_key

    def sign(self, message: bytes) -> bytes:
        assert self._private_key is not None
        return self._private_key.sign(message)

    def verify(self, signature: bytes, message: bytes) -> None:
        assert self._public_key is not None
        self._public_key.verify(signature, message)


class _Keys(HTTPSignatureKeyResolver):
    def __init__(self, find: Callable[[str], SigningKey | VerifyKey | None]) -> None:
        self._find = find

    def resolve_public_key(self, key_id: str) -> SigningKey | VerifyKey | None:
        return self._find(key_id)

    resolve_private_key = resolve_public_key


class _Verifier(HTTPMessageVerifier):
    """Leaves the clock to `verify_head`, which is given the time instead of reading it."""

    def validate_created_and_expires(self, sig_input: Any, max_age: timedelta | None = None) -> None:
        return


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
    signer = HTTPMessageSigner(signature_algorithm=_Ed25519, key_resolver=_Keys(lambda _: key))
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
    present = {name: headers[name] for name in SIGNATURE_HEADERS if name in headers}
    if any(len(value) > MAX_SIGNATURE_HEADER for value in present.values()):
        raise _bad_signature()
    strangers: list[str] = []

    def known(key_id: str) -> VerifyKey | None:
        found = find_key(key_id)
        if found is None:
            strangers.append(key_id)
        return found

    verifier = _Verifier(signature_algorithm=_Ed25519, key_resolver=_Keys(known))
    try:
        results = verifier.verify(
            _Message(method, f"http://server{target}", present),
            max_age=None,
            expect_tag=TAG,
            require_components=COVERED,
        )
    except (HTTPMessageSignaturesException, SignatureError, ValueError) as error:
        if strangers:
            raise RefusedError(
                Reason.NOT_ENROLLED,
                "this device is not enrolled here",
                "Enrol it with a token: emberfleet device enrol.",
            ) from error
        raise _bad_signature() from error
    if len(results) != 1:
        raise _bad_signature()
    parameters = cast("Mapping[str, int | str]", results[0].parameters)
    created, nonce = parameters.get("created"), parameters.get("nonce")
    if not isinstance(created, int) or not isinstance(nonce, str) or not 16 <= len(nonce) <= 64:
        raise _bad_signature()
    if abs(now - created) > CLOCK_WINDOW_S:
        raise RefusedError(
            Reason.CLOCK,
            f"the request was signed {now - created:.0f} s ago by the server's clock, expected at most "
            f"{CLOCK_WINDOW_S:.0f} s",
            "Set the device's clock.",
        )
    return SignedHead(str(parameters["keyid"]), nonce, float(created), present["content-digest"])


def check_body(head: SignedHead, body: bytes) -> None:
    """Raise `RefusedError` (BAD_SIGNATURE) unless `body` is what the signature covers."""
    try:
        ContentDigest.verify(head.content_digest, body)
    except (InvalidSignature, HTTPMessageSignaturesException) as error:
        raise _bad_signature() from error


def _bad_signature() -> RefusedError:
    return RefusedError(
        Reason.BAD_SIGNATURE,
        "the request's signature does not verify",
        "Sign the request with the key that this device enrolled with.",
    )
