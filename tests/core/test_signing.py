"""Keys and DSSE envelopes: what verifies, what does not, and what never shows."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.errors import FormatError, SignatureError
from emberfleet.core.signing import (
    MAX_ENVELOPE_BYTES,
    NOT_VERIFIED,
    SigningKey,
    VerifyKey,
    open_envelope,
    preauthentication_encoding,
    sign_envelope,
)

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
KEY = SigningKey(SEED)
OTHER = SigningKey(bytes(32))
TYPE = "application/vnd.emberfleet.test"


def test_the_key_and_signature_are_those_of_rfc_8032_test_1() -> None:
    assert KEY.verify_key.raw == PUBLIC
    assert KEY.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac"
        "c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )


def test_the_encoding_that_is_signed_is_that_of_the_dsse_specification() -> None:
    encoded = preauthentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_the_length_of_the_type_counts_bytes_not_characters() -> None:
    assert preauthentication_encoding("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


@given(st.binary(max_size=300))
def test_opening_gives_what_was_signed(payload: bytes) -> None:
    assert open_envelope(sign_envelope(TYPE, payload, KEY), TYPE, [KEY.verify_key]) == payload


def test_the_same_payload_and_key_give_the_same_envelope() -> None:
    assert sign_envelope(TYPE, b"x", KEY) == sign_envelope(TYPE, b"x", SigningKey(SEED))


def test_one_of_several_trusted_keys_is_enough() -> None:
    assert open_envelope(sign_envelope(TYPE, b"x", KEY), TYPE, [OTHER.verify_key, KEY.verify_key]) == b"x"


def test_a_wrong_key_id_does_not_matter_because_it_is_only_a_hint() -> None:
    envelope = json.loads(sign_envelope(TYPE, b"x", KEY))
    envelope["signatures"][0]["keyid"] = "somebody else"
    assert open_envelope(json.dumps(envelope).encode(), TYPE, [KEY.verify_key]) == b"x"


def test_a_good_signature_counts_beside_one_of_a_stranger() -> None:
    envelope = json.loads(sign_envelope(TYPE, b"x", KEY))
    envelope["signatures"] = (
        json.loads(sign_envelope(TYPE, b"x", OTHER))["signatures"] + envelope["signatures"]
    )
    assert open_envelope(json.dumps(envelope).encode(), TYPE, [KEY.verify_key]) == b"x"


def altered(change: Callable[[dict[str, Any]], None]) -> bytes:
    envelope = json.loads(sign_envelope(TYPE, b"payload", KEY))
    change(envelope)
    return json.dumps(envelope).encode()


@pytest.mark.parametrize(
    ("data", "kind", "trusted"),
    [
        pytest.param(sign_envelope(TYPE, b"x", KEY), TYPE, [OTHER.verify_key], id="another key"),
        pytest.param(sign_envelope(TYPE, b"x", KEY), TYPE, [], id="nobody trusted"),
        pytest.param(sign_envelope(TYPE, b"x", KEY), "other/type", [KEY.verify_key], id="another type"),
        pytest.param(
            altered(lambda e: e.update(payloadType="other/type")),
            "other/type",
            [KEY.verify_key],
            id="retyped",
        ),
        pytest.param(
            altered(lambda e: e.update(payload=base64.b64encode(b"Payload").decode())),
            TYPE,
            [KEY.verify_key],
            id="changed payload",
        ),
        pytest.param(
            altered(lambda e: e["signatures"][0].update(sig=base64.b64encode(bytes(64)).decode())),
            TYPE,
            [KEY.verify_key],
            id="changed signature",
        ),
        pytest.param(altered(lambda e: e.update(signatures=[])), TYPE, [KEY.verify_key], id="unsigned"),
    ],
)
def test_every_way_of_not_verifying_gives_one_message(
    data: bytes, kind: str, trusted: list[VerifyKey]
) -> None:
    with pytest.raises(SignatureError) as caught:
        open_envelope(data, kind, trusted)
    assert str(caught.value) == NOT_VERIFIED


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"payload":"","payload":"","payloadType":"t","signatures":[]}',
        altered(lambda e: e.update(extra=1)),
        altered(lambda e: e.pop("payloadType")),
        altered(lambda e: e.update(payload="not base64!")),
        altered(lambda e: e.update(payload=5)),
        altered(lambda e: e.update(signatures="x")),
        altered(lambda e: e.update(signatures=e["signatures"] * 17)),
        altered(lambda e: e["signatures"][0].pop("sig")),
        altered(lambda e: e["signatures"][0].update(keyid=5)),
        altered(lambda e: e["signatures"][0].update(sig="AAAA")),
        b" " * (MAX_ENVELOPE_BYTES + 1),
    ],
)
def test_what_is_not_an_envelope_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        open_envelope(data, TYPE, [KEY.verify_key])


@given(
    st.binary(max_size=100) | st.text(max_size=50).map(lambda text: json.dumps({"payload": text}).encode())
)
def test_arbitrary_bytes_never_open_and_raise_only_the_two_families(data: bytes) -> None:
    with pytest.raises((FormatError, SignatureError)):
        open_envelope(data, TYPE, [KEY.verify_key])


@given(st.data())
def test_no_single_changed_byte_yields_another_payload(source: st.DataObject) -> None:
    data = bytearray(sign_envelope(TYPE, b"payload", KEY))
    data[source.draw(st.integers(0, len(data) - 1))] = source.draw(st.integers(0, 255))
    try:
        assert open_envelope(bytes(data), TYPE, [KEY.verify_key]) == b"payload"
    except (FormatError, SignatureError):
        return


@pytest.mark.parametrize("passphrase", [None, "korrekt pferd"])
def test_a_saved_key_is_loaded_again_and_private(tmp_path: Path, passphrase: str | None) -> None:
    path = tmp_path / "key.pem"
    KEY.save(path, passphrase)
    assert SigningKey.load(path, passphrase).verify_key == KEY.verify_key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(("saved", "given_one"), [("right", "wrong"), ("right", None), (None, "needless")])
def test_another_passphrase_is_a_format_error(
    tmp_path: Path, saved: str | None, given_one: str | None
) -> None:
    KEY.save(tmp_path / "key.pem", saved)
    with pytest.raises(FormatError, match="passphrase"):
        SigningKey.load(tmp_path / "key.pem", given_one)


def test_an_empty_passphrase_is_refused() -> None:
    with pytest.raises(FormatError, match="protects nothing"):
        KEY.pem("")


def test_a_key_of_another_kind_is_refused() -> None:
    pem = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(FormatError, match="not an Ed25519 key"):
        SigningKey.from_pem(pem)


def test_no_way_of_showing_a_key_shows_its_secret() -> None:
    shown = f"{KEY!r} {KEY!s} {KEY} {[KEY]}"
    assert shown.count(KEY.verify_key.key_id) == 4
    assert SEED.hex() not in shown
    assert repr(SEED) not in shown


def test_a_signing_key_is_neither_pickled_nor_copied() -> None:
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            attempt(KEY)


def test_a_public_key_as_text_comes_back() -> None:
    assert VerifyKey.from_text(KEY.verify_key.text + "\n") == KEY.verify_key
    assert len(KEY.verify_key.text) == 44


@pytest.mark.parametrize("text", ["", "AAAA", "not base64", "é" * 44])
def test_text_that_is_not_a_public_key_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="public key"):
        VerifyKey.from_text(text)


def test_a_seed_of_another_length_is_refused() -> None:
    with pytest.raises(FormatError, match="31 bytes, expected 32"):
        SigningKey(bytes(31))


def test_a_key_equals_its_like_alone() -> None:
    assert KEY.verify_key == VerifyKey(PUBLIC)
    assert KEY.verify_key != OTHER.verify_key
    assert KEY.verify_key != PUBLIC


def test_generated_keys_differ_and_their_ids_too() -> None:
    keys = {SigningKey.generate().verify_key for _ in range(10)}
    assert len(keys) == len({key.key_id for key in keys}) == 10
