"""Keys of the TUF repository: the same signatures as everybody else's."""

from __future__ import annotations

import pytest
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signature, SSlibKey

from emberfleet.core.repository_keys import RepositoryKey, RepositorySigner, use_repository_keys
from emberfleet.core.signing import SigningKey

KEY = SigningKey(bytes(range(32)))
PUBLIC = RepositoryKey.of(KEY.verify_key)


def test_what_we_sign_the_librarys_own_key_verifies() -> None:
    signature = RepositorySigner(KEY).sign(b"payload")
    assert signature.keyid == PUBLIC.keyid
    theirs = SSlibKey(PUBLIC.keyid, "ed25519", "ed25519", {"public": KEY.verify_key.raw.hex()})
    theirs.verify_signature(signature, b"payload")
    PUBLIC.verify_signature(signature, b"payload")


def test_a_key_comes_back_from_metadata_as_ours() -> None:
    use_repository_keys()
    found = Key.from_dict(PUBLIC.keyid, PUBLIC.to_dict())
    assert isinstance(found, RepositoryKey)
    assert found == PUBLIC


@pytest.mark.parametrize("signature", ["", "00", "zz", "00" * 64, "0" * 127])
def test_a_signature_that_is_none_does_not_verify(signature: str) -> None:
    with pytest.raises(UnverifiedSignatureError):
        PUBLIC.verify_signature(Signature(PUBLIC.keyid, signature), b"payload")


def test_another_payload_and_another_key_do_not_verify() -> None:
    signature = RepositorySigner(KEY).sign(b"payload")
    with pytest.raises(UnverifiedSignatureError):
        PUBLIC.verify_signature(signature, b"payloaD")
    with pytest.raises(UnverifiedSignatureError):
        RepositoryKey.of(SigningKey.generate().verify_key).verify_signature(signature, b"payload")


@pytest.mark.parametrize("public", ["", "00", "zz" * 32, "ff" * 32])
def test_a_key_that_is_none_verifies_nothing(public: str) -> None:
    broken = RepositoryKey("id", "ed25519", "ed25519", {"public": public})
    with pytest.raises(UnverifiedSignatureError):
        broken.verify_signature(RepositorySigner(KEY).sign(b"payload"), b"payload")


def test_a_key_without_its_public_half_is_refused() -> None:
    use_repository_keys()
    with pytest.raises(ValueError, match="public half"):
        Key.from_dict("id", {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": 3}})
