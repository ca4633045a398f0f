"""HPKE (RFC 9180): what only the holder of a round's private key can open.

Base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305: one suite, fast without AES
instructions. It is the cryptography library's own where that has it, else `emberfleet.core.hpke`; what one
seals the other opens. The library's single-shot calls take no associated data, so it is bound through `info`,
which enters the key schedule: another context is another key, and opening fails. Both parts carry
their length, so no two contexts encode alike. docs/protocol.md, section Sealing.
"""

from __future__ import annotations

from functools import cache
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from emberfleet.core.errors import FormatError, SealError

KEY_BYTES: Final = 32
OVERHEAD_BYTES: Final = 48
"""What sealing adds: the 32 bytes of the sender's one-time key and the 16 of the tag."""
NOT_OPENED: Final = "the sealed message does not open"


class SealingKey:
    """An X25519 private key for one round. It shows itself by nothing but its public half."""

    __slots__ = ("_key", "public")

    def __init__(self, private: bytes) -> None:
        """Take the 32 secret bytes; `generate` is the usual way in."""
        if len(private) != KEY_BYTES:
            raise FormatError(f"sealing key: {len(private)} bytes, expected {KEY_BYTES}")
        self._key = X25519PrivateKey.from_private_bytes(private)
        self.public: Final = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @classmethod
    def generate(cls) -> SealingKey:
        """Make a key from the operating system's randomness."""
        key = X25519PrivateKey.generate()
        return cls(key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))

    def private(self) -> bytes:
        """The 32 secret bytes, for a file that only its owner may read."""
        return self._key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())

    def open(self, sealed: bytes, info: bytes, associated_data: bytes) -> bytes:
        """The payload that `seal` was given under the same context.

        Raises:
            SealError: Another key, another context, or bytes that were changed: one message for all.
        """
        try:
            return _suite().decrypt(sealed, self._key, _context(info, associated_data))
        except (InvalidTag, ValueError) as error:
            raise SealError(NOT_OPENED) from error

    def __repr__(self) -> str:
        return f"SealingKey(public={self.public.hex()[:16]})"

    def __reduce__(self) -> str:
        raise TypeError("a SealingKey cannot be pickled or copied")


def seal(public: bytes, payload: bytes, info: bytes, associated_data: bytes) -> bytes:
    """Encrypt `payload` so that only the holder of the key behind `public` reads it.

    Args:
        public: The 32 bytes of `SealingKey.public`.
        payload: What to protect; the result is `OVERHEAD_BYTES` longer.
        info: What the payload is: protocol name and version.
        associated_data: Who sent it, for which round: must be repeated exactly to open.

    Raises:
        SealError: `public` is not a usable X25519 key.
    """
    try:
        key = X25519PublicKey.from_public_bytes(public)
        return _suite().encrypt(payload, key, _context(info, associated_data))
    except ValueError as error:
        raise SealError("the round's public key is not a usable X25519 key") from error


def open_sealed(key: SealingKey, sealed: bytes, info: bytes, associated_data: bytes) -> bytes:
    """The inverse of `seal`; raises `SealError` as `SealingKey.open` does."""
    return key.open(sealed, info, associated_data)


def _context(info: bytes, associated_data: bytes) -> bytes:
    return b"".join(
        (len(info).to_bytes(8, "big"), info, len(associated_data).to_bytes(8, "big"), associated_data)
    )


class HpkeSuite(Protocol):
    """The calls of `cryptography.hazmat.primitives.hpke.Suite` that are used here."""

    def encrypt(self, plaintext: bytes, public_key: X25519PublicKey, info: bytes) -> bytes: ...

    def decrypt(self, ciphertext: bytes, private_key: X25519PrivateKey, info: bytes) -> bytes: ...


def library_suite() -> HpkeSuite | None:
    """The suite of the cryptography library; None where that is older than 48, the first to have one."""
    try:
        from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
    except ImportError:
        return None
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


@cache
def _suite() -> HpkeSuite:
    from emberfleet.core.hpke import ComposedSuite

    return library_suite() or ComposedSuite()
