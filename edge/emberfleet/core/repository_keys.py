"""Ed25519 keys of the TUF repository: `tuf` signs and verifies with the keys of `core.signing`.

securesystemslib verifies Ed25519 with `cryptography` from its version 40 on, and before it in plain Python,
which takes fifteen times as long. Devices have version 38, so the key type comes from here on both sides.
"""

from __future__ import annotations

from typing import Any, Final

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import KEY_FOR_TYPE_AND_SCHEME, Key, SecretsHandler, Signature, Signer

from emberfleet.core.errors import EmberError
from emberfleet.core.signing import SIGNATURE_BYTES, SigningKey, VerifyKey

ED25519: Final = "ed25519"


class RepositoryKey(Key):
    """A public key in TUF metadata; its id is the SHA-256 of its 32 bytes."""

    @classmethod
    def of(cls, key: VerifyKey) -> RepositoryKey:
        """The entry for a key."""
        from emberfleet.core.digest import sha256_hex

        return cls(sha256_hex(key.raw), ED25519, ED25519, {"public": key.raw.hex()})

    @classmethod
    def from_dict(cls, keyid: str, key_dict: dict[str, Any]) -> RepositoryKey:
        """Read an entry; raises `ValueError` for what is no Ed25519 key, as `tuf` expects."""
        keytype, scheme, keyval = cls._from_dict(key_dict)
        if not isinstance(keyval.get("public"), str):
            raise ValueError("an Ed25519 key without its public half")
        return cls(keyid, keytype, scheme, keyval, key_dict)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the metadata."""
        return self._to_dict()

    def verify_signature(self, signature: Signature, data: bytes) -> None:
        """Raise `UnverifiedSignatureError` unless this key has made the signature over `data`."""
        try:
            raw = bytes.fromhex(signature.signature)
            if len(raw) != SIGNATURE_BYTES:
                raise ValueError("not the length of an Ed25519 signature")
            VerifyKey(bytes.fromhex(self.keyval["public"])).verify(raw, data)
        except (EmberError, ValueError, TypeError) as error:
            raise UnverifiedSignatureError(f"not signed by {self.keyid}") from error


class RepositorySigner(Signer):
    """Signs TUF metadata with a key of `core.signing`."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self._public = RepositoryKey.of(key.verify_key)

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> RepositorySigner:
        """Refused: keys come from `SigningKey.load`, never from an address."""
        raise ValueError("a repository key is loaded from its file, not from a URI")

    @property
    def public_key(self) -> Key:
        """The public half."""
        return self._public

    def sign(self, payload: bytes) -> Signature:
        """The signature over `payload`."""
        return Signature(self._public.keyid, self._key.sign(payload).hex())


def use_repository_keys() -> None:
    """Let `tuf` read Ed25519 keys as `RepositoryKey`; doing it again changes nothing."""
    KEY_FOR_TYPE_AND_SCHEME[(ED25519, ED25519)] = RepositoryKey
