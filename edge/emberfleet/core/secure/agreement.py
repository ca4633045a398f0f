"""The seeds of masks: two devices agree on one per round, and each has one of its own.

X25519 gives two devices the same secret; HKDF-SHA256 turns it into a seed for this round, this roster and
these two devices alone. A key is made for one round and thrown away. Its secret half is what is shared
among the neighbours, so that the masks of a device that vanished can be taken out of the sum.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from emberfleet.core.errors import FormatError, ShapeError
from emberfleet.core.secure.keystream import SEED_BYTES

KEY_BYTES: Final = 32
DIGEST_BYTES: Final = 32
PAIR_LABEL: Final = b"emberfleet secure sum 1 pair mask"
SELF_LABEL: Final = b"emberfleet secure sum 1 self mask"
ROUNDING_LABEL: Final = b"emberfleet secure sum 1 rounding "
"""All labels are of one length, and so are ids and digests: no two contexts give the same bytes."""
_ID: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class RoundContext:
    """What every seed of a round is bound to: its id, and the digest of the signed roster."""

    round_id: str
    roster_digest: bytes

    def __post_init__(self) -> None:
        _check_id("round", self.round_id)
        if len(self.roster_digest) != DIGEST_BYTES:
            raise ShapeError(f"roster digest: {len(self.roster_digest)} bytes, expected {DIGEST_BYTES}")

    def info(self, label: bytes, *device_ids: str) -> bytes:
        """The bytes that a seed of these devices is derived for."""
        for device_id in device_ids:
            _check_id("device", device_id)
        return b"".join(
            (label, bytes.fromhex(self.round_id), self.roster_digest, *map(bytes.fromhex, device_ids))
        )


class MaskKey:
    """A device's X25519 key of one round, from which its pairwise masks follow."""

    __slots__ = ("_key", "public")

    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key
        self.public: Final = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @classmethod
    def generate(cls) -> MaskKey:
        """Make a key from the operating system's randomness."""
        return cls(X25519PrivateKey.generate())

    @classmethod
    def recover(cls, secret: bytes, public: bytes) -> MaskKey:
        """The key of a device that vanished, from its shares; it must belong to its public half.

        Raises:
            FormatError: It does not: shares were wrong.
        """
        if len(secret) != KEY_BYTES:
            raise FormatError(f"mask key: {len(secret)} bytes, expected {KEY_BYTES}")
        found = cls(X25519PrivateKey.from_private_bytes(secret))
        if found.public != public:
            raise FormatError("mask key: the shares give another key than the roster names; some are wrong")
        return found

    def secret(self) -> bytes:
        """The 32 bytes that are shared among the neighbours."""
        return self._key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())

    def pair_seed(self, own_id: str, peer_id: str, peer_public: bytes, context: RoundContext) -> bytes:
        """The seed of the mask between two devices; both compute the same.

        Raises:
            FormatError: The peer's key is not 32 bytes, or a point with which every secret is the same.
            ShapeError: An id is not 32 hexadecimal digits, or both are the same.
        """
        if own_id == peer_id:
            raise ShapeError(f"pairwise mask: both are device {own_id}")
        if len(peer_public) != KEY_BYTES:
            raise FormatError(f"mask key of {peer_id}: {len(peer_public)} bytes, expected {KEY_BYTES}")
        try:
            agreed = self._key.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError as error:
            raise FormatError(
                f"mask key of {peer_id}: a point of small order, no secret comes of it"
            ) from error
        return _derive(agreed, context.info(PAIR_LABEL, *sorted((own_id, peer_id))))

    def __repr__(self) -> str:
        return "MaskKey(...)"

    def __reduce__(self) -> str:
        raise TypeError("a MaskKey cannot be pickled or copied: its secret serves one round")


def pair_sign(own_id: str, peer_id: str) -> int:
    """+1 for the device that adds the pair's mask, the one with the lower id; -1 for the other."""
    if own_id == peer_id:
        raise ShapeError(f"pairwise mask: both are device {own_id}")
    return 1 if own_id < peer_id else -1


def self_seed(secret: bytes, device_id: str, context: RoundContext) -> bytes:
    """The seed of a device's own mask, from the 32 random bytes it shared for this round."""
    return _derive(_secret(secret), context.info(SELF_LABEL, device_id))


def rounding_seed(secret: bytes, device_id: str, context: RoundContext) -> bytes:
    """The seed of a device's rounding, from 32 random bytes that it keeps to itself.

    It is derived, not drawn, so that an upload made again after a restart has the same bits: two
    different ones under the same masks would show their difference.
    """
    return _derive(_secret(secret), context.info(ROUNDING_LABEL, device_id))


def _secret(secret: bytes) -> bytes:
    if len(secret) != SEED_BYTES:
        raise ShapeError(f"mask secret: {len(secret)} bytes, expected {SEED_BYTES}")
    return secret


def _derive(secret: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=SEED_BYTES, salt=None, info=info).derive(secret)


def _check_id(what: str, value: str) -> None:
    if not _ID.fullmatch(value):
        raise ShapeError(f"{what} id: {value[:40]!r}, expected 32 hexadecimal digits")
