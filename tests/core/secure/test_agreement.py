"""Seeds: both devices compute the same one, bound to the round, the roster and the two of them."""

from __future__ import annotations

import copy
import hashlib
import hmac
import pickle

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from emberfleet.core.errors import FormatError, ShapeError
from emberfleet.core.secure.agreement import (
    PAIR_LABEL,
    ROUNDING_LABEL,
    SELF_LABEL,
    MaskKey,
    RoundContext,
    pair_sign,
    rounding_seed,
    self_seed,
)

IDS = st.binary(min_size=16, max_size=16).map(bytes.hex)
CONTEXT = RoundContext("ab" * 16, bytes(range(32)))
A, B = "0a" * 16, "0b" * 16
# RFC 7748, section 6.1.
ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
ALICE_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
AGREED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
SMALL_ORDER = [bytes(32), b"\x01" + bytes(31), bytes([0xEC, *[0xFF] * 30, 0x7F])]


def hkdf(secret: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, no salt, for one block of output."""
    extracted = hmac.digest(bytes(32), secret, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)


def bound(label: bytes, *ids: str) -> bytes:
    return label + b"\xab" * 16 + bytes(range(32)) + b"".join(bytes.fromhex(name) for name in ids)


def test_the_standards_keys_give_the_seed_that_hkdf_makes_of_the_standards_secret() -> None:
    expected = hkdf(AGREED, bound(PAIR_LABEL, A, B))
    alice, bob = MaskKey.recover(ALICE, ALICE_PUBLIC), MaskKey.recover(BOB, BOB_PUBLIC)
    assert alice.pair_seed(A, B, BOB_PUBLIC, CONTEXT) == expected
    assert bob.pair_seed(B, A, ALICE_PUBLIC, CONTEXT) == expected


@settings(max_examples=20)
@given(IDS, IDS, IDS, st.binary(min_size=32, max_size=32))
def test_both_sides_agree_with_opposite_signs_whatever_the_round(
    own: str, peer: str, round_id: str, digest: bytes
) -> None:
    if own == peer:
        return
    mine, theirs, context = MaskKey.generate(), MaskKey.generate(), RoundContext(round_id, digest)
    seed = mine.pair_seed(own, peer, theirs.public, context)
    assert seed == theirs.pair_seed(peer, own, mine.public, context)
    assert pair_sign(own, peer) == -pair_sign(peer, own)
    assert len(seed) == 32


def test_every_part_of_the_context_changes_the_seed() -> None:
    alice = MaskKey.recover(ALICE, ALICE_PUBLIC)
    seeds = {
        alice.pair_seed(A, B, BOB_PUBLIC, CONTEXT),
        alice.pair_seed(A, "0c" * 16, BOB_PUBLIC, CONTEXT),
        alice.pair_seed("0c" * 16, B, BOB_PUBLIC, CONTEXT),
        alice.pair_seed(A, B, BOB_PUBLIC, RoundContext("ac" * 16, CONTEXT.roster_digest)),
        alice.pair_seed(A, B, BOB_PUBLIC, RoundContext(CONTEXT.round_id, bytes(32))),
        alice.pair_seed(A, B, MaskKey.generate().public, CONTEXT),
    }
    assert len(seeds) == 6


def test_own_masks_and_rounding_have_seeds_of_their_own_from_one_secret() -> None:
    assert self_seed(ALICE, A, CONTEXT) == hkdf(ALICE, bound(SELF_LABEL, A))
    assert rounding_seed(ALICE, A, CONTEXT) == hkdf(ALICE, bound(ROUNDING_LABEL, A))
    assert self_seed(ALICE, A, CONTEXT) != self_seed(ALICE, B, CONTEXT)


def test_labels_are_of_one_length_so_that_no_two_contexts_read_alike() -> None:
    assert len({len(PAIR_LABEL), len(SELF_LABEL), len(ROUNDING_LABEL)}) == 1
    assert len({PAIR_LABEL, SELF_LABEL, ROUNDING_LABEL}) == 3


def test_a_key_comes_back_from_its_secret_and_from_no_other() -> None:
    key = MaskKey.generate()
    assert MaskKey.recover(key.secret(), key.public).secret() == key.secret()
    with pytest.raises(FormatError, match="another key than the roster names"):
        MaskKey.recover(ALICE, key.public)
    for size in (0, 31, 33):
        with pytest.raises(FormatError, match=f"{size} bytes, expected 32"):
            MaskKey.recover(bytes(size), key.public)


@pytest.mark.parametrize("public", SMALL_ORDER)
def test_a_point_of_small_order_is_refused(public: bytes) -> None:
    with pytest.raises(FormatError, match="small order"):
        MaskKey.generate().pair_seed(A, B, public, CONTEXT)


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(33)])
def test_a_public_key_of_another_length_is_refused(public: bytes) -> None:
    with pytest.raises(FormatError, match=f"{len(public)} bytes, expected 32"):
        MaskKey.generate().pair_seed(A, B, public, CONTEXT)


def test_a_device_has_no_mask_with_itself() -> None:
    with pytest.raises(ShapeError, match="both are device"):
        MaskKey.generate().pair_seed(A, A, BOB_PUBLIC, CONTEXT)
    with pytest.raises(ShapeError, match="both are device"):
        pair_sign(A, A)


@pytest.mark.parametrize("name", ["", "0A" * 16, "0a" * 15, "0a" * 17, "0a" * 16 + "\n", "zz" * 16])
def test_an_id_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ShapeError, match="expected 32 hexadecimal digits"):
        RoundContext(name, bytes(32))
    with pytest.raises(ShapeError, match="expected 32 hexadecimal digits"):
        self_seed(bytes(32), name, CONTEXT)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_secrets_and_digests_of_another_length_are_refused(size: int) -> None:
    with pytest.raises(ShapeError, match=f"{size} bytes, expected 32"):
        RoundContext("ab" * 16, bytes(size))
    for derive in (self_seed, rounding_seed):
        with pytest.raises(ShapeError, match=f"{size} bytes, expected 32"):
            derive(bytes(size), A, CONTEXT)


def test_a_mask_key_shows_and_copies_nothing() -> None:
    key = MaskKey(X25519PrivateKey.from_private_bytes(ALICE))
    assert repr(key) == "MaskKey(...)"
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            copied(key)
