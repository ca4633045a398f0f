"""Enrolment tokens: a secret that lets one device in, and how the device recognises the server it is for.

``secret.fingerprint.pin``: 128 random bits, the fingerprint of the server's keys, and the pin of its TLS
certificate. What follows the first dot is no secret and may be left out; the device then trusts the
server it was pointed at.

A pin is SHA-256 of a certificate's public key (RFC 7469, section 2.4: of its SubjectPublicKeyInfo), in
base64url without padding. It holds however the certificate is renewed, as long as the key stays.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from emberfleet.core.errors import FormatError, SignatureError

MAX_TOKEN_CHARACTERS: Final = 200
_PIN: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class PinError(SignatureError):
    """A server's certificate is not the one that its devices know it by."""


@dataclass(frozen=True, slots=True)
class Token:
    """An enrolment token; `fingerprint` and `pin` are empty where it does not say."""

    secret: str
    fingerprint: str = ""
    pin: str = ""

    @property
    def text(self) -> str:
        """As it is handed to a person."""
        return ".".join((self.secret, self.fingerprint, self.pin)).rstrip(".")

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read what `text` gave.

        Raises:
            FormatError: Not a token.
        """
        parts = text.strip().split(".")
        if not parts[0] or len(parts) > 3 or len(text) > MAX_TOKEN_CHARACTERS:
            raise FormatError("this is not an enrolment token: ask the fleet's owner for one")
        token = cls(*parts)
        if token.pin:
            check_pin(token.pin)
        return token

    def __repr__(self) -> str:
        return f"Token(..., {self.fingerprint!r}, {self.pin!r})"


def pin_of(certificate: bytes) -> str:
    """The pin of a certificate (DER).

    Raises:
        FormatError: Not a certificate.
    """
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise FormatError("the server's certificate cannot be read") from error
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.urlsafe_b64encode(hashlib.sha256(info).digest()).decode("ascii").rstrip("=")


def check_pin(text: str) -> str:
    """A pin as a person gives it; raises `FormatError` for anything else."""
    if not _PIN.fullmatch(text):
        raise FormatError(f"'{text[:60]}' is not a certificate's pin: see emberfleet server pin")
    return text
