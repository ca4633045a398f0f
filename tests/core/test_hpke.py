"""HPKE put together from primitives: the standard's own numbers, and the library on the other side."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from emberfleet.core import sealing
from emberfleet.core.errors import SealError
from emberfleet.core.hpke import ComposedSuite, key_schedule, open_with, seal_with, shared_secret
from emberfleet.core.sealing import NOT_OPENED, HpkeSuite, SealingKey, library_suite, open_sealed, seal

# RFC 9180, A.2.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305, base mode.
INFO = bytes.fromhex("4f6465206f6e2061204772656369616e2055726e")
ENCAPSULATED = bytes.fromhex("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a")
EPHEMERAL = bytes.fromhex("f4ec9b33b792c372c1d2c2063507b684ef925b8c75a42dbcbf57d63ccd381600")
RECIPIENT = bytes.fromhex("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a")
RECIPIENT_PRIVATE = bytes.fromhex("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb")
SHARED_SECRET = bytes.fromhex("0bbe78490412b4bbea4812666f7916932b828bba79942424abb65244930d69a7")
KEY = bytes.fromhex("ad2744de8e17f4ebba575b3f5f5a8fa1f69c2a07f6e7500bc60ca6e3e3ec1c91")
BASE_NONCE = bytes.fromhex("5c4d98150661b848853b547f")
PLAINTEXT = b"Beauty is truth, truth beauty"
CIPHERTEXTS = {
    0: "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28",
    1: "6b53c051e4199c518de79594e1c4ab18b96f081549d45ce015be002090bb119e85285337cc95ba5f59992dc98c",
    2: "71146bd6795ccc9c49ce25dda112a48f202ad220559502cef1f34271e0cb4b02b4f10ecac6f48c32f878fae86b",
    4: "63357a2aa291f5a4e5f27db6baa2af8cf77427c7c1a909e0b37214dd47db122bb153495ff0b02e9e54a50dbe16",
    255: "18ab939d63ddec9f6ac2b60d61d36a7375d2070c9b683861110757062c52b8880a5f6b3936da9cd6c23ef2a95c",
    256: "7a4a13e9ef23978e2c520fd4d2e757514ae160cd0cd05e556ef692370ca53076214c0c40d4c728d6ed9e727a5b",
}
OWNER = X25519PrivateKey.from_private_bytes(RECIPIENT_PRIVATE)


def library() -> HpkeSuite:
    suite = library_suite()
    if suite is None:
        pytest.skip("this cryptography library has no HPKE of its own to compare with")
    return suite


def test_the_standards_message_is_sealed_to_its_bytes() -> None:
    ephemeral = X25519PrivateKey.from_private_bytes(EPHEMERAL)
    recipient = X25519PublicKey.from_public_bytes(RECIPIENT)
    sealed = seal_with(ephemeral, PLAINTEXT, recipient, INFO, b"Count-0")
    assert sealed == ENCAPSULATED + bytes.fromhex(CIPHERTEXTS[0])
    assert open_with(sealed, OWNER, INFO, b"Count-0") == PLAINTEXT


def test_the_standards_secret_is_agreed_on_from_either_side() -> None:
    ephemeral = X25519PrivateKey.from_private_bytes(EPHEMERAL)
    for agreed in (
        ephemeral.exchange(X25519PublicKey.from_public_bytes(RECIPIENT)),
        OWNER.exchange(X25519PublicKey.from_public_bytes(ENCAPSULATED)),
    ):
        assert shared_secret(agreed, ENCAPSULATED, RECIPIENT) == SHARED_SECRET


def test_the_standards_key_and_nonce_follow_from_the_secret() -> None:
    assert key_schedule(SHARED_SECRET, INFO) == (KEY, BASE_NONCE)


@pytest.mark.parametrize("sequence", sorted(CIPHERTEXTS))
def test_key_and_nonce_give_every_ciphertext_of_the_standard(sequence: int) -> None:
    key, base = key_schedule(SHARED_SECRET, INFO)
    nonce = (int.from_bytes(base, "big") ^ sequence).to_bytes(len(base), "big")
    ciphertext = ChaCha20Poly1305(key).encrypt(nonce, PLAINTEXT, b"Count-%d" % sequence)
    assert ciphertext.hex() == CIPHERTEXTS[sequence]


@settings(max_examples=50)
@given(payload=st.binary(max_size=300), info=st.binary(max_size=60))
def test_the_library_opens_what_was_composed_and_the_other_way_round(payload: bytes, info: bytes) -> None:
    key = X25519PrivateKey.generate()
    for sender, receiver in ((library(), ComposedSuite()), (ComposedSuite(), library())):
        sealed = sender.encrypt(payload, key.public_key(), info)
        assert len(sealed) == len(payload) + sealing.OVERHEAD_BYTES
        assert receiver.decrypt(sealed, key, info) == payload


@pytest.mark.parametrize("size", range(49))
def test_what_is_too_short_does_not_open(size: int) -> None:
    with pytest.raises((InvalidTag, ValueError)):
        ComposedSuite().decrypt(bytes(range(1, size + 1)), OWNER)


def test_a_point_of_small_order_is_refused_on_either_side() -> None:
    zero = bytes(32)
    with pytest.raises(ValueError, match=r".*"):
        ComposedSuite().encrypt(b"payload", X25519PublicKey.from_public_bytes(zero))
    with pytest.raises(ValueError, match=r".*"):
        ComposedSuite().decrypt(zero + b"payload and a tag of 16 bytes", OWNER)


def test_every_changed_byte_is_noticed() -> None:
    sealed = ComposedSuite().encrypt(b"payload", OWNER.public_key(), b"info")
    for place in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[place] ^= 1
        with pytest.raises((InvalidTag, ValueError)):
            ComposedSuite().decrypt(bytes(damaged), OWNER, b"info")


def test_sealing_works_without_the_librarys_hpke(monkeypatch: pytest.MonkeyPatch) -> None:
    key = SealingKey.generate()
    by_library = seal(key.public, b"payload", b"info", b"data") if library_suite() else None
    monkeypatch.setattr(sealing, "_suite", ComposedSuite)
    composed = seal(key.public, b"payload", b"info", b"data")
    assert open_sealed(key, composed, b"info", b"data") == b"payload"
    if by_library is not None:
        assert open_sealed(key, by_library, b"info", b"data") == b"payload"
    with pytest.raises(SealError, match=NOT_OPENED):
        open_sealed(key, composed, b"info", b"other")
    with pytest.raises(SealError, match="not a usable"):
        seal(bytes(32), b"payload", b"info", b"data")
    monkeypatch.undo()
    assert open_sealed(key, composed, b"info", b"data") == b"payload"


def test_the_composed_suite_draws_a_new_key_for_every_message() -> None:
    public = OWNER.public_key()
    sealed = {ComposedSuite().encrypt(b"payload", public)[:32] for _ in range(8)}
    assert len(sealed) == 8
    assert public.public_bytes(Encoding.Raw, PublicFormat.Raw) not in sealed
