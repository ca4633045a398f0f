"""Messages: what is encoded is decoded, and anything else is a `FormatError`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.errors import FormatError
from emberfleet.core.messages import (
    EnrolReply,
    EnrolRequest,
    ErrorReply,
    ModelInfo,
    ModelReport,
    Reason,
    Receipt,
    UpdateHeader,
    Upload,
    WorkReply,
    check_round_id,
    check_version,
    device_id_of,
    fingerprint_of,
)

ROUND, DEVICE = "0" * 31 + "a", "b" * 32
MODEL = ModelInfo(3, "c" * 64, 1000)
HEADER = UpdateHeader(ROUND, 3, DEVICE, 15, {"loss": 0.5})
MESSAGES: list[tuple[Any, Callable[[bytes], Any]]] = [
    (EnrolRequest("token", b"p" * 32, "kitchen"), EnrolRequest.decode),
    (EnrolReply(DEVICE, b"s" * 32, (b"t" * 32, b"u" * 32), b"{}"), EnrolReply.decode),
    (MODEL, ModelInfo.decode),
    (WorkReply(MODEL), WorkReply.decode),
    (WorkReply(MODEL, b"envelope", 2.5), WorkReply.decode),
    (HEADER, UpdateHeader.decode),
    (Receipt(ROUND, 4), Receipt.decode),
    (ModelReport(0.75, 0.5, 20, kept=True), ModelReport.decode),
    (ErrorReply(Reason.LATE, "too late", "come again"), ErrorReply.decode),
    (ErrorReply(Reason.BUSY, "busy", "", 3.0), ErrorReply.decode),
]
DECODERS = sorted({decode for _, decode in MESSAGES} | {Upload.decode}, key=repr)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(("message", "decode"), MESSAGES)
def test_decode_of_encode_is_the_same_message(message: Any, decode: Callable[[bytes], Any]) -> None:
    assert decode(message.encode()) == message


@pytest.mark.parametrize(("message", "decode"), MESSAGES)
def test_a_missing_an_extra_and_a_null_field_are_refused(
    message: Any, decode: Callable[[bytes], Any]
) -> None:
    fields = json.loads(message.encode())
    optional = {"advice", "retry_after_s", "offer"} if isinstance(message, ErrorReply | WorkReply) else set()
    for name in fields:
        if name not in optional:
            with pytest.raises(FormatError):
                decode(json.dumps({key: value for key, value in fields.items() if key != name}).encode())
            with pytest.raises(FormatError):
                decode(json.dumps({**fields, name: None}).encode())
    with pytest.raises(FormatError, match="not part of this message"):
        decode(json.dumps({**fields, "surplus": 1}).encode())


@pytest.mark.parametrize("decode", DECODERS)
@given(data=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_raise_nothing_but_a_format_error(decode: Callable[[bytes], Any], data: bytes) -> None:
    with pytest.raises(FormatError):
        decode(data)


@pytest.mark.parametrize(("message", "decode"), MESSAGES)
@given(data=st.data())
def test_any_value_in_any_field_raises_nothing_but_a_format_error(
    message: Any, decode: Callable[[bytes], Any], data: st.DataObject
) -> None:
    fields = json.loads(message.encode())
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(JSON)
    try:
        decode(json.dumps(fields).encode())
    except FormatError:
        return


def test_an_upload_comes_apart_as_it_was_joined() -> None:
    upload = Upload.decode(Upload.join(HEADER.encode(), b"sealed"))
    assert (upload.header, upload.associated_data, upload.sealed) == (HEADER, HEADER.encode(), b"sealed")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"EFU1",
        b"EFU2\0\0\0\1{",
        b"EFU1\xff\xff\xff\xff{}",
        b"EFU1\0\0\0\0",
        b"EFU1\0\0\0\x09{}",
        b"EFU1\0\0\0\2{}",
    ],
)
def test_a_malformed_upload_is_refused(body: bytes) -> None:
    with pytest.raises(FormatError):
        Upload.decode(body)


@pytest.mark.parametrize("count", [0, -1, 1_000_001, 10**15, 1.5, True, "9"])
def test_a_weight_beyond_reason_is_refused(count: object) -> None:
    fields = json.loads(HEADER.encode())
    with pytest.raises(FormatError, match="sample_count"):
        UpdateHeader.decode(json.dumps({**fields, "sample_count": count}).encode())


def test_a_json_bomb_costs_no_more_than_an_error() -> None:
    for bomb in (b"[" * 8000, b'{"a":' * 1600, b'{"version":' + b"9" * 6000 + b"}", b'{"a":1,"a":2}'):
        with pytest.raises(FormatError):
            ModelInfo.decode(bomb)
    with pytest.raises(FormatError, match="at most"):
        ModelInfo.decode(b" " * 20_000)


def test_a_devices_name_is_bound_to_its_key() -> None:
    assert device_id_of(b"a" * 32) != device_id_of(b"b" * 32)
    assert len(device_id_of(b"a" * 32)) == 32


def test_a_fingerprint_covers_every_key_whatever_their_order() -> None:
    keys = (b"1" * 32, b"2" * 32)
    assert fingerprint_of(b"s" * 32, keys, b"root") == fingerprint_of(b"s" * 32, keys[::-1], b"root")
    others = ((b"t" * 32, keys, b"root"), (b"s" * 32, (), b"root"), (b"s" * 32, keys, b"other root"))
    assert len({fingerprint_of(b"s" * 32, keys, b"root"), *(fingerprint_of(*other) for other in others)}) == 4


def test_tokens_and_keys_are_not_shown() -> None:
    assert "secret" not in repr(EnrolRequest("secret", b"p" * 32, "kitchen"))


@pytest.mark.parametrize("text", ["", "../x", "A" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n"])
def test_a_round_id_in_a_path_is_checked(text: str) -> None:
    with pytest.raises(FormatError):
        check_round_id(text)


@pytest.mark.parametrize("text", ["", "-1", "1.0", "x", "٣", "9" * 17, "1 "])
def test_a_version_in_a_path_is_checked(text: str) -> None:
    with pytest.raises(FormatError):
        check_version(text)
