"""What devices of a secure round sign, seal and commit to.

A signature is Ed25519 by the device's own key over the DSSE pre-authentication encoding of the statement's
type and its canonical JSON (`core.signing`), so what is signed as one statement passes as no other, and as no
request either. Everything here is bound to the round; docs/protocol.md, section A secure round.
"""

from __future__ import annotations

from typing import Final

from emberfleet.core.codec import encode_json, to_base64
from emberfleet.core.digest import Sha256, sha256_hex
from emberfleet.core.errors import FormatError, SealError, ShapeError, SignatureError
from emberfleet.core.messages import check_device_id, check_round_id
from emberfleet.core.sealing import SealingKey, seal
from emberfleet.core.secure.shamir import SECRET_BYTES, SHARE_BYTES
from emberfleet.core.signing import NOT_VERIFIED, SigningKey, VerifyKey, preauthentication_encoding

ADVERT_TYPE: Final = "application/vnd.emberfleet.round-advert+json"
SHARE_TYPE: Final = "application/vnd.emberfleet.round-share+json"
SURVIVORS_TYPE: Final = "application/vnd.emberfleet.round-survivors+json"
SHARE_LABEL: Final = b"emberfleet/1 share"
COMMITMENT_LABEL: Final = b"emberfleet secure sum 1 commitment"
SHARES_BYTES: Final = 2 * SHARE_BYTES
"""What one neighbour is sealed: a share of the mask key's secret half, then one of the own mask's secret."""


def commitment_of(secret: bytes, round_id: str, device_id: str) -> bytes:
    """The 32 bytes that tie a device to the secret behind its own mask, and tell nothing of it."""
    if len(secret) != SECRET_BYTES:
        raise ShapeError(f"commitment: a secret of {len(secret)} bytes, expected {SECRET_BYTES}")
    digest = Sha256()
    for part in (
        COMMITMENT_LABEL,
        bytes.fromhex(check_round_id(round_id)),
        bytes.fromhex(check_device_id(device_id)),
        secret,
    ):
        digest.update(part)
    return bytes.fromhex(digest.hexdigest())


def advert_statement(
    round_id: str,
    terms_digest: str,
    device_id: str,
    public_key: bytes,
    mask_key: bytes,
    sealing_key: bytes,
    commitment: bytes,
) -> bytes:
    """The bytes an advert's signature covers: these keys are this device's, in this round, on these terms."""
    return _statement(
        ADVERT_TYPE,
        {
            "round_id": round_id,
            "terms_digest": terms_digest,
            "device_id": device_id,
            "public_key": to_base64(public_key),
            "mask_key": to_base64(mask_key),
            "sealing_key": to_base64(sealing_key),
            "commitment": to_base64(commitment),
        },
    )


def share_statement(round_id: str, roster_digest: str, sender: int, receiver: int, sealed: bytes) -> bytes:
    """The bytes a share's signature covers: who sealed it for whom, by their positions in which roster."""
    return _statement(
        SHARE_TYPE,
        {
            "round_id": round_id,
            "roster_digest": roster_digest,
            "from": sender,
            "to": receiver,
            "sealed_sha256": sha256_hex(sealed),
        },
    )


def survivors_statement(round_id: str, survivors_digest: str) -> bytes:
    """The bytes a confirmation covers: this device was told this set of survivors, and no other."""
    return _statement(SURVIVORS_TYPE, {"round_id": round_id, "survivors_digest": survivors_digest})


def share_context(round_id: str, roster_digest: str, sender: int, receiver: int) -> bytes:
    """What sealed shares are bound to: ``round | roster digest | from | to``, 16 + 32 + 4 + 4 bytes."""
    return b"".join(
        (
            bytes.fromhex(check_round_id(round_id)),
            bytes.fromhex(roster_digest),
            sender.to_bytes(4, "big"),
            receiver.to_bytes(4, "big"),
        )
    )


def seal_shares(
    sealing_key: bytes, shares: bytes, round_id: str, roster_digest: str, sender: int, receiver: int
) -> bytes:
    """Both shares of one neighbour, so that only it reads them; raises `SealError` for a bad key of its."""
    if len(shares) != SHARES_BYTES:
        raise ShapeError(f"shares: {len(shares)} bytes, expected {SHARES_BYTES}")
    return seal(sealing_key, shares, SHARE_LABEL, share_context(round_id, roster_digest, sender, receiver))


def open_shares(
    key: SealingKey, sealed: bytes, round_id: str, roster_digest: str, sender: int, receiver: int
) -> bytes:
    """The inverse of `seal_shares`.

    Raises:
        SealError: Sealed for another key, round, roster or pair, or not two shares.
    """
    found = key.open(sealed, SHARE_LABEL, share_context(round_id, roster_digest, sender, receiver))
    if len(found) != SHARES_BYTES:
        raise SealError(f"sealed shares: {len(found)} bytes inside, expected {SHARES_BYTES}")
    return found


def sign_statement(key: SigningKey, statement: bytes) -> bytes:
    """The 64 bytes of a device's signature over a statement; the same statement, the same bytes."""
    return key.sign(statement)


def verify_statement(public_key: bytes, statement: bytes, signature: bytes) -> None:
    """Raise `SignatureError` unless the holder of `public_key` has signed the statement."""
    try:
        VerifyKey(public_key).verify(signature, statement)
    except FormatError as error:
        raise SignatureError(NOT_VERIFIED) from error


def _statement(kind: str, payload: dict[str, str | int]) -> bytes:
    return preauthentication_encoding(kind, encode_json(payload))
