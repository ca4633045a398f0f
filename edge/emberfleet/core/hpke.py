"""HPKE (RFC 9180), base mode, single shot, where the cryptography library does not have it.

From version 48 on the library has its own (`cryptography.hazmat.primitives.hpke`) and
`emberfleet.core.sealing` uses that; Debian 12 has 38 and Debian 13 has 43. Nothing is computed here: the
key agreement, HMAC, HKDF-Expand and the cipher are the library's, put together as sections 4.1, 5.1 and 6.1
say, for the one suite DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305. The calls are those of the
library's `Suite`.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

VERSION: Final = b"HPKE-v1"
KEM_ID: Final = b"KEM\x00\x20"
"""DHKEM(X25519, HKDF-SHA256)."""
SUITE_ID: Final = b"HPKE\x00\x20\x00\x01\x00\x03"
"""That KEM with HKDF-SHA256 and ChaCha20-Poly1305."""
BASE_MODE: Final = b"\x00"
PUBLIC_BYTES: Final = 32
SECRET_BYTES: Final = 32
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12


class ComposedSuite:
    """The suite named above, with the calls of `cryptography.hazmat.primitives.hpke.Suite`."""

    def encrypt(self, plaintext: bytes, public_key: X25519PublicKey, info: bytes = b"") -> bytes:
        """The sender's one-time public key, then the ciphertext with its tag.

        Raises:
            ValueError: `public_key` is a point of small order.
        """
        return seal_with(X25519PrivateKey.generate(), plaintext, public_key, info)

    def decrypt(self, ciphertext: bytes, private_key: X25519PrivateKey, info: bytes = b"") -> bytes:
        """What `encrypt` was given.

        Raises:
            InvalidTag: another key, another `info`, or bytes that were changed.
            ValueError: the one-time key is a point of small order.
        """
        return open_with(ciphertext, private_key, info)


def seal_with(
    ephemeral: X25519PrivateKey,
    plaintext: bytes,
    public_key: X25519PublicKey,
    info: bytes,
    associated_data: bytes = b"",
) -> bytes:
    """Seal with a given one-time key, which must never be used twice: `ComposedSuite.encrypt` draws one."""
    encapsulated, recipient = _raw(ephemeral.public_key()), _raw(public_key)
    secret = shared_secret(ephemeral.exchange(public_key), encapsulated, recipient)
    key, nonce = key_schedule(secret, info)
    return encapsulated + ChaCha20Poly1305(key).encrypt(nonce, plaintext, associated_data)


def open_with(
    sealed: bytes, private_key: X25519PrivateKey, info: bytes, associated_data: bytes = b""
) -> bytes:
    """The inverse of `seal_with`; raises as `ComposedSuite.decrypt` does."""
    encapsulated, ciphertext = sealed[:PUBLIC_BYTES], sealed[PUBLIC_BYTES:]
    if len(encapsulated) != PUBLIC_BYTES:
        raise InvalidTag
    agreed = private_key.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    key, nonce = key_schedule(shared_secret(agreed, encapsulated, _raw(private_key.public_key())), info)
    return ChaCha20Poly1305(key).decrypt(nonce, ciphertext, associated_data)


def shared_secret(agreed: bytes, encapsulated: bytes, recipient: bytes) -> bytes:
    """ExtractAndExpand of section 4.1, over the X25519 result and both public keys."""
    extracted = _labeled_extract(KEM_ID, b"", b"eae_prk", agreed)
    return _labeled_expand(KEM_ID, extracted, b"shared_secret", encapsulated + recipient, SECRET_BYTES)


def key_schedule(secret: bytes, info: bytes) -> tuple[bytes, bytes]:
    """The key and the first nonce of section 5.1, in base mode: no pre-shared key, hence the empty ones."""
    context = (
        BASE_MODE
        + _labeled_extract(SUITE_ID, b"", b"psk_id_hash", b"")
        + _labeled_extract(SUITE_ID, b"", b"info_hash", info)
    )
    extracted = _labeled_extract(SUITE_ID, secret, b"secret", b"")
    return (
        _labeled_expand(SUITE_ID, extracted, b"key", context, KEY_BYTES),
        _labeled_expand(SUITE_ID, extracted, b"base_nonce", context, NONCE_BYTES),
    )


def _labeled_extract(suite_id: bytes, salt: bytes, label: bytes, key_material: bytes) -> bytes:
    # HKDF-Extract is one HMAC (RFC 5869, section 2.2); an absent salt is a block of zeros.
    extract = hmac.HMAC(salt or bytes(hashes.SHA256.digest_size), hashes.SHA256())
    extract.update(VERSION + suite_id + label + key_material)
    return extract.finalize()


def _labeled_expand(suite_id: bytes, secret: bytes, label: bytes, info: bytes, size_bytes: int) -> bytes:
    labeled = size_bytes.to_bytes(2, "big") + VERSION + suite_id + label + info
    return HKDFExpand(hashes.SHA256(), size_bytes, labeled).derive(secret)


def _raw(key: X25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
