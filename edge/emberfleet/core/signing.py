"""Ed25519 keys, and the DSSE envelope that says who signed which bytes and what they mean.

An envelope is JSON: the payload in base64, its type, and signatures over the pre-authentication
encoding ``DSSEv1 len(type) type len(payload) payload``, so bytes signed as one type never pass as
another. The payload is handed out only after one trusted key has verified; every way of not
verifying gives the same error. The format is specified in docs/formats.md, section Envelope.

Source: https://github.com/secure-systems-lab/dsse, protocol.md and envelope.md, version 1.
"""

from __future__ import annotations

import base64
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from emberfleet.core.codec import Fields, encode_json, to_base64
from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import FormatError, SignatureError
from emberfleet.core.files import read_limited, write_private

if TYPE_CHECKING:
    from pathlib import Path

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
MAX_KEY_FILE_BYTES: Final = 16 * 1024
MAX_ENVELOPE_BYTES: Final = 8 * 1024 * 1024
MAX_SIGNATURES: Final = 16
NOT_VERIFIED: Final = "the signature does not verify under any trusted key"


class VerifyKey:
    """The public half of a signing key: 32 bytes anybody may know."""

    __slots__ = ("_key", "raw")

    def __init__(self, raw: bytes) -> None:
        """Take the 32 bytes of RFC 8032; raises `FormatError` when they are not a key."""
        if not isinstance(raw, bytes) or len(raw) != KEY_BYTES:
            raise FormatError(f"public key: {len(raw)} bytes, expected {KEY_BYTES}")
        try:
            self._key = Ed25519PublicKey.from_public_bytes(raw)
        except ValueError as error:
            raise FormatError("public key: not a point of Ed25519") from error
        self.raw: Final = raw

    @classmethod
    def from_text(cls, text: str) -> VerifyKey:
        """Read the base64 text that `text` gives."""
        try:
            raw = base64.b64decode(text.strip(), validate=True)
        except ValueError as error:
            raise FormatError("public key: expected 44 characters of base64") from error
        return cls(raw)

    @property
    def text(self) -> str:
        """The key as 44 characters of standard base64."""
        return to_base64(self.raw)

    @property
    def key_id(self) -> str:
        """The first 16 hexadecimal digits of the key's SHA-256: a name, not a proof."""
        return sha256_hex(self.raw)[:16]

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raise `SignatureError` unless `signature` was made over `message` by this key."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature as error:
            raise SignatureError(NOT_VERIFIED) from error

    def __eq__(self, other: object) -> bool:
        return self.raw == other.raw if isinstance(other, VerifyKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"VerifyKey({self.key_id})"


class SigningKey:
    """An Ed25519 private key. It shows itself by its public key id alone and refuses to be pickled.

    `cryptography`'s serialization is imported where it is used: it takes 1 MiB, which a device that only
    verifies does without.
    """

    __slots__ = ("_key", "verify_key")

    def __init__(self, seed: bytes) -> None:
        """Take the 32 secret bytes of RFC 8032; `generate` and `load` are the usual ways in."""
        from cryptography.hazmat.primitives import serialization

        if not isinstance(seed, bytes) or len(seed) != KEY_BYTES:
            raise FormatError(f"signing key: {len(seed)} bytes, expected {KEY_BYTES}")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        public = self._key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
        self.verify_key: Final = VerifyKey(public)

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a key from the operating system's randomness."""
        return cls._of(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: str | Path, passphrase: str | None = None) -> SigningKey:
        """Read a key that `save` wrote.

        Raises:
            FormatError: Not an Ed25519 key in PEM, or the passphrase is missing, wrong or needless.
            StorageError: The file cannot be read.
        """
        return cls.from_pem(read_limited(path, MAX_KEY_FILE_BYTES), passphrase)

    @classmethod
    def from_pem(cls, pem: bytes, passphrase: str | None = None) -> SigningKey:
        """Read a key from PKCS#8 PEM; raises as `load` does."""
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(pem, passphrase.encode() if passphrase is not None else None)
        except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
            raise FormatError("signing key: not a private key in PEM, or the passphrase is wrong") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise FormatError("signing key: not an Ed25519 key; make one with SigningKey.generate")
        return cls._of(key)

    def save(self, path: str | Path, passphrase: str | None = None) -> None:
        """Write the key as PKCS#8 PEM, mode 600, encrypted when a passphrase is given."""
        write_private(path, self.pem(passphrase))

    def pem(self, passphrase: str | None = None) -> bytes:
        """The key as PKCS#8 PEM: a secret unless a good passphrase protects it."""
        from cryptography.hazmat.primitives import serialization

        if passphrase == "":
            raise FormatError("signing key: an empty passphrase protects nothing; give none or a real one")
        protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            protection = serialization.BestAvailableEncryption(passphrase.encode())
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection
        )

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the Ed25519 signature over `message`; the same message, the same bytes."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"SigningKey({self.verify_key.key_id})"

    def __reduce__(self) -> str:
        raise TypeError("a SigningKey cannot be pickled or copied; save it with a passphrase instead")

    @classmethod
    def _of(cls, key: Ed25519PrivateKey) -> SigningKey:
        from cryptography.hazmat.primitives import serialization

        return cls(
            key.private_bytes(
                serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
            )
        )


def preauthentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """The bytes a DSSE signature covers: both lengths in decimal, so no two pairs encode alike."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_envelope(payload_type: str, payload: bytes, key: SigningKey) -> bytes:
    """Wrap a payload in a DSSE envelope; the same payload and key give the same bytes."""
    signature = key.sign(preauthentication_encoding(payload_type, payload))
    entry = {"keyid": key.verify_key.key_id, "sig": to_base64(signature)}
    return encode_json({"payload": to_base64(payload), "payloadType": payload_type, "signatures": [entry]})


def open_envelope(data: bytes, payload_type: str, trusted: Collection[VerifyKey]) -> bytes:
    """The payload of an envelope that at least one trusted key has signed as `payload_type`.

    Key ids are hints from outside and not looked at: each signature is tried with each trusted key.

    Raises:
        FormatError: The bytes are not an envelope, so nobody's signature could be checked.
        SignatureError: Another type, no trusted signer, or a signature that does not verify: one
            message for all of them.
    """
    found_type, payload, signatures = _parse_envelope(data)
    message = preauthentication_encoding(payload_type, payload)
    if found_type == payload_type:
        for signature in signatures:
            for key in trusted:
                try:
                    key.verify(signature, message)
                except SignatureError:
                    continue
                return payload
    raise SignatureError(NOT_VERIFIED)


def _parse_envelope(data: bytes) -> tuple[str, bytes, list[bytes]]:
    fields = Fields.parse(data, "envelope", MAX_ENVELOPE_BYTES)
    payload = fields.data("payload", max_bytes=MAX_ENVELOPE_BYTES)
    kind = fields.text("payloadType")
    listed = fields.items("signatures", MAX_SIGNATURES)
    fields.done()
    return kind, payload, [_signature(Fields.of(entry, "envelope signature")) for entry in listed]


def _signature(fields: Fields) -> bytes:
    signature = fields.data("sig", SIGNATURE_BYTES)
    fields.text("keyid", default="")
    fields.done()
    return signature
