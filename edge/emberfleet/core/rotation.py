"""A device changes its key: the old key asks for it, and the new one proves that it is at hand.

The request is signed by the old key (`core/requests.py`), which binds the new one to this device; `proof` is
made by the new key over both names, so nobody can have a key enrolled that he does not hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from emberfleet.core.codec import Fields, encode_json, to_base64
from emberfleet.core.messages import KEY_BYTES, MAX_SMALL_BYTES, device_id_of
from emberfleet.core.signing import SigningKey, VerifyKey

LABEL: Final = b"emberfleet key change 1|"
SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class KeyChange:
    """The wish to be known by another key from now on."""

    public_key: bytes
    proof: bytes

    @classmethod
    def make(cls, old_id: str, new: SigningKey) -> Self:
        """The wish of the device `old_id` to use the key `new`."""
        raw = new.verify_key.raw
        return cls(raw, new.sign(_proven(old_id, device_id_of(raw))))

    @property
    def device_id(self) -> str:
        """The name that goes with the new key."""
        return device_id_of(self.public_key)

    def verify(self, old_id: str) -> None:
        """Check that the new key wants to follow the device `old_id`.

        Raises:
            SignatureError: It does not.
            FormatError: Not a key.
        """
        VerifyKey(self.public_key).verify(self.proof, _proven(old_id, self.device_id))

    def encode(self) -> bytes:
        """As JSON."""
        return encode_json({"public_key": to_base64(self.public_key), "proof": to_base64(self.proof)})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote; raises `FormatError` alone."""
        fields = Fields.parse(data, "key change", MAX_SMALL_BYTES)
        found = cls(fields.data("public_key", KEY_BYTES), fields.data("proof", SIGNATURE_BYTES))
        fields.done()
        return found


@dataclass(frozen=True, slots=True)
class KeyChanged:
    """The server knows the device by its new key alone."""

    device_id: str

    def encode(self) -> bytes:
        """As JSON."""
        return encode_json({"device_id": self.device_id})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote."""
        fields = Fields.parse(data, "key changed", MAX_SMALL_BYTES)
        found = cls(fields.text("device_id", 32))
        fields.done()
        return found


def _proven(old_id: str, new_id: str) -> bytes:
    return LABEL + f"{old_id}|{new_id}".encode("ascii")
