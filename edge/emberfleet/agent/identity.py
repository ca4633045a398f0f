"""Who a device is: its own key, the server it belongs to, and the keys it trusts.

The key is made on the device, kept in a file only its owner may read, and never sent. The rest was
fixed at enrolment, so a server that is swapped later is noticed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from emberfleet.core.codec import Fields, encode_json, to_base64
from emberfleet.core.errors import ConfigError, EnrolmentError
from emberfleet.core.files import read_limited, write_private
from emberfleet.core.messages import (
    MAX_ROOT_BYTES,
    MAX_SMALL_BYTES,
    MAX_TRUSTED_KEYS,
    EnrolReply,
    device_id_of,
    fingerprint_of,
)
from emberfleet.core.signing import SigningKey, VerifyKey
from emberfleet.core.tokens import Token

KEY_FILE: Final = "device.key"
IDENTITY_FILE: Final = "device.json"
MINIMUM_COHORT: Final = 3
"""With two, each learns the other's update from the sum."""


@dataclass(frozen=True, slots=True)
class Identity:
    """An enrolled device.

    Attributes:
        pin: Of the server's TLS certificate; empty where a certificate authority vouches for it.
        minimum_cohort: Fewest updates that a sum it takes part in may have: its owner's word.
        allow_sealed: Whether it takes part in sealed rounds too, which show the server its update.
    """

    server: str
    device_id: str
    name: str
    server_key: bytes
    bundle_keys: tuple[bytes, ...]
    key: SigningKey
    root: bytes
    pin: str = ""
    minimum_cohort: int = MINIMUM_COHORT
    allow_sealed: bool = False

    @property
    def trusted(self) -> tuple[VerifyKey, ...]:
        """Keys whose bundles this device runs."""
        return tuple(VerifyKey(raw) for raw in self.bundle_keys)

    def save(self, folder: Path) -> None:
        """Write all but the key, which `key_of` has written before."""
        write_private(
            folder / IDENTITY_FILE,
            encode_json(
                {
                    "server": self.server,
                    "device_id": self.device_id,
                    "name": self.name,
                    "server_key": to_base64(self.server_key),
                    "bundle_keys": [to_base64(key) for key in self.bundle_keys],
                    "root": to_base64(self.root),
                    "pin": self.pin,
                    "minimum_cohort": self.minimum_cohort,
                    "rounds": "any" if self.allow_sealed else "secure",
                }
            )
            + b"\n",
        )

    @classmethod
    def load(cls, folder: Path) -> Identity:
        """Read an enrolled device's folder.

        Raises:
            ConfigError: The device is not enrolled.
        """
        if not (folder / IDENTITY_FILE).exists():
            raise ConfigError(f"{folder} holds no enrolled device: run emberfleet device enrol first")
        fields = Fields.parse(read_limited(folder / IDENTITY_FILE, MAX_SMALL_BYTES), "device.json")
        keys = fields.items("bundle_keys", MAX_TRUSTED_KEYS)
        key = SigningKey.load(folder / KEY_FILE)
        fields.text("device_id", 32)
        rounds = fields.text("rounds", 6, default="secure")
        if rounds not in ("any", "secure"):
            raise fields.wrong("rounds", "any or secure")
        found = cls(
            server=fields.text("server", 400),
            # Not as written: the key may have been replaced a moment before the writing.
            device_id=device_id_of(key.verify_key.raw),
            name=fields.text("name", 80),
            server_key=fields.data("server_key", 32),
            bundle_keys=tuple(Fields({"key": item}, "device.json").data("key", 32) for item in keys),
            key=key,
            root=fields.data("root", max_bytes=MAX_ROOT_BYTES),
            pin=fields.text("pin", 43, default=""),
            minimum_cohort=fields.integer("minimum_cohort", 1, default=MINIMUM_COHORT),
            allow_sealed=rounds == "any",
        )
        fields.done()
        return found


def key_of(folder: Path) -> SigningKey:
    """The device's key, made on first use and kept before anybody hears of it."""
    path = folder / KEY_FILE
    if path.exists():
        return SigningKey.load(path)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = SigningKey.generate()
    key.save(path)
    return key


def accept_reply(server: str, name: str, token: Token, key: SigningKey, reply: EnrolReply) -> Identity:
    """The identity that a server's answer makes.

    Raises:
        EnrolmentError: The answer is not from the server the token was made for, or about another key.
    """
    expected = fingerprint_of(reply.server_key, reply.bundle_keys, reply.root)
    if token.fingerprint and token.fingerprint != expected:
        raise EnrolmentError(
            "this is not the server that the token was made for: check the address, and ask for a new token"
        )
    if reply.device_id != device_id_of(key.verify_key.raw):
        raise EnrolmentError("the server's answer is about another device's key")
    return Identity(
        server, reply.device_id, name, reply.server_key, reply.bundle_keys, key, reply.root, token.pin
    )
