from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.codec import Scalar
from emberfleet.core.errors import FormatError, ShapeError, SignatureError
from emberfleet.core.messages import ModelInfo
from emberfleet.core.offers import Mode, RoundOffer, RoundTerms, SecureTerms
from emberfleet.core.signing import SigningKey
from emberfleet.core.updates import TensorPlan, UpdatePlan

PLAN = UpdatePlan((TensorPlan("w", (2,), 1), TensorPlan("v", (), 0.5)))
TRAINING: dict[str, Scalar] = {"scope": "head", "epochs": 2, "rate": 0.1, "augment": True}
SECURE = RoundTerms("0a" * 16, 7, ModelInfo(3, "c" * 64, 1000), PLAN, TRAINING, 1, SecureTerms(3, 0, 0.3, 9))
SEALED = replace(SECURE, secure=None, round_key=b"k" * 32)
TERMS = {"secure": SECURE, "sealed": SEALED}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


def offer_of(terms: RoundTerms) -> RoundOffer:
    return RoundOffer(terms, "b" * 32, 5.0, 60.0, 10.0)


@pytest.mark.parametrize("mode", TERMS)
def test_decode_of_encode_is_the_same_offer_with_the_same_digest_of_its_terms(mode: str) -> None:
    terms = TERMS[mode]
    assert terms.mode is Mode(mode)
    found = RoundOffer.decode(offer_of(terms).encode())
    assert found == offer_of(terms)
    assert RoundTerms.decode(terms.encode()) == terms
    assert found.terms.digest == terms.digest


@pytest.mark.parametrize("mode", TERMS)
def test_an_offer_opens_under_its_servers_key_alone(mode: str) -> None:
    key = SigningKey.generate()
    envelope = offer_of(TERMS[mode]).sign(key)
    assert RoundOffer.open(envelope, key.verify_key.raw) == offer_of(TERMS[mode])
    with pytest.raises(SignatureError):
        RoundOffer.open(envelope, SigningKey.generate().verify_key.raw)


def test_each_term_changes_the_digest() -> None:
    secure = SECURE.secure
    assert secure is not None
    others = [
        replace(SECURE, round_id="0b" * 16),
        replace(SECURE, number=8),
        replace(SECURE, model=replace(SECURE.model, digest="d" * 64)),
        replace(SECURE, update=replace(PLAN, bits=8)),
        replace(SECURE, training={**TRAINING, "epochs": 3}),
        replace(SECURE, seed=2),
        *(
            replace(SECURE, secure=replace(secure, **change))
            for change in (
                {"minimum": 4},
                {"corrupt_share": 0.1},
                {"dropout_share": 0.2},
                {"heaviest": 1},
                {"coordinates": 0.5},
            )
        ),
        SEALED,
    ]
    assert len({terms.digest for terms in (SECURE, *others)}) == len(others) + 1


@pytest.mark.parametrize("mode", TERMS)
def test_a_missing_an_extra_and_a_null_field_are_refused(mode: str) -> None:
    written: dict[str, Any] = json.loads(offer_of(TERMS[mode]).encode())
    for holder in (written, written["terms"]):
        for name in list(holder):
            value = holder.pop(name)
            for bad in ({}, {name: None}):
                holder.update(bad)
                with pytest.raises(FormatError):
                    RoundOffer.decode(json.dumps(written).encode())
            holder[name] = value
        holder["surplus"] = 1
        with pytest.raises(FormatError, match="not part of this message"):
            RoundOffer.decode(json.dumps(written).encode())
        del holder["surplus"]


@pytest.mark.parametrize("mode", TERMS)
@given(data=st.data())
def test_any_value_in_any_field_raises_nothing_but_a_format_error(mode: str, data: st.DataObject) -> None:
    written: dict[str, Any] = json.loads(offer_of(TERMS[mode]).encode())
    holder = written["terms"] if data.draw(st.booleans()) else written
    holder[data.draw(st.sampled_from(sorted(holder)))] = data.draw(JSON)
    try:
        RoundOffer.decode(json.dumps(written).encode())
    except FormatError:
        return


@given(data=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_raise_nothing_but_a_format_error(data: bytes) -> None:
    for decode in (RoundOffer.decode, RoundTerms.decode):
        with pytest.raises(FormatError):
            decode(data)


def test_terms_are_secure_or_sealed_and_never_both_or_neither() -> None:
    for secure, key in ((SECURE.secure, b"k" * 32), (None, None)):
        with pytest.raises(ShapeError, match="one of both"):
            replace(SECURE, secure=secure, round_key=key)


def test_float32_has_no_place_in_a_secure_round() -> None:
    with pytest.raises(ShapeError, match="32 bits in a secure round"):
        replace(SECURE, update=replace(PLAN, bits=32))
    written = SECURE.to_json()
    written["update"]["bits"] = 32
    with pytest.raises(FormatError, match="32 bits in a secure round"):
        RoundTerms.decode(json.dumps(written).encode())
