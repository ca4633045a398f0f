"""Sealing: only the right key under the right context opens, and failure says nothing."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberfleet.core.errors import FormatError, SealError
from emberfleet.core.sealing import NOT_OPENED, OVERHEAD_BYTES, SealingKey, open_sealed, seal

KEY = SealingKey.generate()


@given(payload=st.binary(max_size=300), info=st.binary(max_size=40), data=st.binary(max_size=40))
def test_what_was_sealed_opens_under_the_same_context(payload: bytes, info: bytes, data: bytes) -> None:
    sealed = seal(KEY.public, payload, info, data)
    assert len(sealed) == len(payload) + OVERHEAD_BYTES
    assert open_sealed(KEY, sealed, info, data) == payload


def test_sealing_twice_gives_different_bytes() -> None:
    assert seal(KEY.public, b"x", b"", b"") != seal(KEY.public, b"x", b"", b"")


@pytest.mark.parametrize(
    ("info", "data"),
    [(b"inf", b"odata"), (b"infod", b"ata"), (b"info", b"dat"), (b"", b"infodata"), (b"data", b"info")],
)
def test_another_context_does_not_open(info: bytes, data: bytes) -> None:
    sealed = seal(KEY.public, b"payload", b"info", b"data")
    with pytest.raises(SealError, match=NOT_OPENED):
        KEY.open(sealed, info, data)


def test_another_key_does_not_open() -> None:
    with pytest.raises(SealError, match=NOT_OPENED):
        SealingKey.generate().open(seal(KEY.public, b"payload", b"", b""), b"", b"")


def test_every_changed_byte_is_noticed() -> None:
    sealed = seal(KEY.public, b"payload", b"", b"")
    for place in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[place] ^= 1
        with pytest.raises(SealError, match=NOT_OPENED):
            KEY.open(bytes(damaged), b"", b"")


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_raise_nothing_but_a_seal_error(data: bytes) -> None:
    with pytest.raises(SealError, match=NOT_OPENED):
        KEY.open(data, b"", b"")


@pytest.mark.parametrize("public", [b"", b"\1" * 31, b"\0" * 32])
def test_a_key_of_no_use_is_refused(public: bytes) -> None:
    with pytest.raises(SealError, match="not a usable"):
        seal(public, b"payload", b"", b"")


def test_a_key_comes_back_from_its_bytes_and_shows_none_of_them() -> None:
    again = SealingKey(KEY.private())
    assert again.public == KEY.public
    assert KEY.private().hex() not in repr(KEY)
    with pytest.raises(FormatError):
        SealingKey(b"short")


def test_a_key_is_neither_pickled_nor_copied() -> None:
    for action in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            action(KEY)
