"""Writes secure_messages.json: the messages of a secure round between three devices, byte for byte.

Nothing of ours is imported: JSON, digests and Ed25519 as docs/protocol.md says, the longhand way. Keys and
whatever is random in a round are SHA-256 digests of their names, so that anybody can make them again; what is
sealed stands for itself, since sealing has vectors of its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ROUND = hashlib.sha256(b"round").hexdigest()[:32]
TERMS = hashlib.sha256(b"terms").hexdigest()
KIND = "application/vnd.emberfleet.round-%s+json"
NAMES = ("one", "two", "three")
TARGET = Path(__file__).with_name("secure_messages.json")


def drawn(name: str, size: int = 32) -> bytes:
    blocks = [hashlib.sha256(f"{name}/{index}".encode()).digest() for index in range(-(-size // 32))]
    return b"".join(blocks)[:size]


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def signed(key: Ed25519PrivateKey, statement: str, payload: dict[str, Any]) -> str:
    kind, data = KIND % statement, canonical(payload)
    return text(key.sign(b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(data), data)))


def public(key: Ed25519PrivateKey | X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def main() -> None:
    keys = [Ed25519PrivateKey.from_private_bytes(drawn(f"{name} key")) for name in NAMES]
    by_id = {
        hashlib.sha256(public(key)).hexdigest()[:32]: (name, key)
        for name, key in zip(NAMES, keys, strict=True)
    }
    ids = sorted(by_id)
    adverts = []
    for device_id in ids:
        name, key = by_id[device_id]
        commitment = hashlib.sha256(
            b"emberfleet secure sum 1 commitment"
            + bytes.fromhex(ROUND)
            + bytes.fromhex(device_id)
            + drawn(f"{name} own")
        ).digest()
        fields = {
            "device_id": device_id,
            "public_key": text(public(key)),
            "mask_key": text(public(X25519PrivateKey.from_private_bytes(drawn(f"{name} mask")))),
            "sealing_key": text(public(X25519PrivateKey.from_private_bytes(drawn(f"{name} sealing")))),
            "commitment": text(commitment),
        }
        signature = signed(key, "advert", {**fields, "round_id": ROUND, "terms_digest": TERMS})
        adverts.append([*fields.values(), signature])
    roster = canonical({"round_id": ROUND, "terms_digest": TERMS, "members": adverts})
    digest = hashlib.sha256(roster).hexdigest()

    def share(sender: int, receiver: int, peer: int) -> list[Any]:
        sealed = drawn(f"sealed {sender} {receiver}", 114)
        payload = {
            "round_id": ROUND,
            "roster_digest": digest,
            "from": sender,
            "to": receiver,
            "sealed_sha256": hashlib.sha256(sealed).hexdigest(),
        }
        return [peer, text(sealed), signed(by_id[ids[sender]][1], "share", payload)]

    group_fields = {"roster_digest": digest, "participants": [0, 1, 2]}
    group = hashlib.sha256(canonical(group_fields)).hexdigest()
    survivors = canonical({"group_digest": group, "survivors": [0, 1], "vanished": [2]})
    settled = hashlib.sha256(survivors).hexdigest()
    confirmed = [
        [place, signed(by_id[ids[place]][1], "survivors", {"round_id": ROUND, "survivors_digest": settled})]
        for place in (0, 1)
    ]
    header = canonical(
        {
            "protocol": "emberfleet/1",
            "round_id": ROUND,
            "device_id": ids[0],
            "model_version": 4,
            "group_digest": group,
        }
    )
    made = {
        "advert": canonical({"advert": adverts[0]}),
        "roster": roster,
        "shares": canonical({"roster_digest": digest, "shares": [share(0, 1, 1), share(0, 2, 2)]}),
        "mailbox": canonical({**group_fields, "shares": [share(1, 0, 1), share(2, 0, 2)]}),
        "masked update": b"EFM1" + len(header).to_bytes(4, "big") + header + drawn("packed", 40),
        "survivors": survivors,
        "confirmation": canonical({"survivors_digest": settled, "signature": confirmed[0][1]}),
        "confirmations": canonical({"confirmations": confirmed}),
        "disclosure": canonical(
            {
                "survivors_digest": settled,
                "own": [[1, text(bytes(1) + drawn("share of own"))]],
                "key": [[2, text(bytes(1) + drawn("share of key"))]],
            }
        ),
    }
    found = {
        "round_id": ROUND,
        "terms_digest": TERMS,
        "names": [by_id[device_id][0] for device_id in ids],
        "roster_digest": digest,
        "group_digest": group,
        "survivors_digest": settled,
        "share_context_0_1": ROUND + digest + "0000000000000001",
        "messages": {name: text(data) for name, data in made.items()},
    }
    TARGET.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
