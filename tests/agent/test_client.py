"""The device's HTTP side against a scripted server: retries, downloads that go on, rollback."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from emberfleet.agent.client import Backoff, ServerClient, UnreachableError, check_address, enrol_device
from emberfleet.agent.identity import Identity, accept_reply, key_of
from emberfleet.core.errors import ConfigError, EnrolmentError, FormatError
from emberfleet.core.messages import (
    EnrolReply,
    ErrorReply,
    ModelInfo,
    Reason,
    Receipt,
    RefusedError,
    device_id_of,
    fingerprint_of,
)
from emberfleet.core.signing import SigningKey
from emberfleet.core.tokens import Token

KEY = SigningKey.generate()
DEVICE = device_id_of(KEY.verify_key.raw)
RECEIPT = Receipt("a" * 32, 1)
BUNDLE = bytes(range(256)) * 40
INFO = ModelInfo(3, hashlib.sha256(BUNDLE).hexdigest(), len(BUNDLE))
Answer = Callable[[httpx.Request], httpx.Response]


def client_of(answer: Answer, pauses: list[float] | None = None, attempts: int = 4) -> ServerClient:
    return ServerClient(
        "http://server:1",
        KEY,
        DEVICE,
        backoff=Backoff(attempts, 0.1, 1.0),
        clock=lambda: 1000.0,
        sleep=(pauses if pauses is not None else []).append,
        generator=random.Random(1),
        transport=httpx.MockTransport(answer),
    )


def refusal(status: int, reason: Reason, retry_after_s: float | None = None) -> httpx.Response:
    return httpx.Response(status, content=ErrorReply(reason, "no", "wait", retry_after_s).encode())


def test_a_busy_server_is_tried_again_with_a_fresh_signature_each_time() -> None:
    signatures: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        signatures.append(request.headers["signature"])
        busy = len(signatures) < 3
        return refusal(503, Reason.BUSY) if busy else httpx.Response(200, content=RECEIPT.encode())

    pauses: list[float] = []
    assert client_of(answer, pauses).send_update("a" * 32, b"body") == RECEIPT
    assert len(set(signatures)) == 3
    assert 0.05 <= pauses[0] <= 0.1
    assert 0.1 <= pauses[1] <= 0.2


def test_a_server_that_says_when_is_waited_for_that_long() -> None:
    answers = iter([refusal(503, Reason.BUSY, 7.0), httpx.Response(200, content=RECEIPT.encode())])
    pauses: list[float] = []
    client_of(lambda _: next(answers), pauses).send_update("a" * 32, b"body")
    assert pauses == [7.0]


def test_a_server_that_never_answers_is_given_up_with_its_address() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    pauses: list[float] = []
    with pytest.raises(UnreachableError, match="http://server:1 did not answer in 4 tries"):
        client_of(answer, pauses).latest()
    assert len(pauses) == 3


@pytest.mark.parametrize(("status", "reason"), [(409, Reason.OTHER_ROUND), (403, Reason.REVOKED)])
def test_a_refusal_is_not_tried_again(status: int, reason: Reason) -> None:
    calls: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(1)
        return refusal(status, reason)

    with pytest.raises(RefusedError) as caught:
        client_of(answer).send_update("a" * 32, b"body")
    assert caught.value.reason is reason
    assert len(calls) == 1


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(404, content=b"<html>"), httpx.Response(302), httpx.Response(200, content=b"hi")],
)
def test_another_programs_answer_is_not_believed(answer: httpx.Response) -> None:
    with pytest.raises(FormatError):
        client_of(lambda _: answer).latest()


def test_an_endless_answer_is_cut_off() -> None:
    with pytest.raises(FormatError, match="larger than"):
        client_of(lambda _: httpx.Response(200, content=bytes(5 << 20))).latest()


def test_a_download_goes_on_where_it_stopped(tmp_path: Path) -> None:
    ranges: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked = request.headers.get("range")
        ranges.append(asked)
        if asked is None:
            return httpx.Response(200, content=BUNDLE[:4000])
        assert request.headers["if-range"] == f'"{INFO.digest}"'
        begin = int(asked.removeprefix("bytes=").removesuffix("-"))
        return httpx.Response(206, content=BUNDLE[begin : begin + 4000])

    assert client_of(answer).download(INFO, tmp_path / "part") == BUNDLE
    assert ranges == [None, "bytes=4000-", "bytes=8000-"]
    assert not (tmp_path / "part").exists()


def test_a_server_that_knows_no_ranges_sends_it_all_again(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"x" * 100)
    answer = httpx.Response(200, content=BUNDLE)
    assert client_of(lambda _: answer).download(INFO, tmp_path / "part") == BUNDLE


@pytest.mark.parametrize("data", [BUNDLE[:-1] + b"x", BUNDLE + b"x"])
def test_a_changed_or_longer_download_is_refused_and_forgotten(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(FormatError):
        client_of(lambda _: httpx.Response(200, content=data)).download(INFO, tmp_path / "part")
    part = tmp_path / "part"
    assert not part.exists() or not part.read_bytes()


@pytest.mark.parametrize(
    "address", ["server:8000", "ftp://server", "http://", "http://server/path", "http://server?x=1"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="expected http"):
        check_address(address)


def test_a_devices_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    key = key_of(tmp_path / "device")
    assert key_of(tmp_path / "device").verify_key == key.verify_key
    assert (tmp_path / "device" / "device.key").stat().st_mode & 0o777 == 0o600


def test_a_token_for_another_server_is_noticed() -> None:
    reply = EnrolReply(DEVICE, b"s" * 32, (b"b" * 32,), b"root")
    good = Token("secret", fingerprint_of(b"s" * 32, (b"b" * 32,), b"root"))
    assert accept_reply("http://server", "kitchen", good, KEY, reply).device_id == DEVICE
    with pytest.raises(EnrolmentError, match="not the server"):
        accept_reply("http://server", "kitchen", Token("secret", "0" * 32), KEY, reply)
    with pytest.raises(EnrolmentError, match="another device"):
        accept_reply("http://server", "kitchen", Token("secret"), SigningKey.generate(), reply)


def test_an_identity_comes_back_from_its_folder(tmp_path: Path) -> None:
    key = key_of(tmp_path)
    device_id = device_id_of(key.verify_key.raw)
    identity = Identity("http://server:1", device_id, "kitchen", b"s" * 32, (b"b" * 32,), key, b"root")
    identity.save(tmp_path)
    found = Identity.load(tmp_path)
    assert (found.server, found.device_id, found.name) == ("http://server:1", device_id, "kitchen")
    assert (found.server_key, found.bundle_keys, found.root) == (b"s" * 32, (b"b" * 32,), b"root")
    assert found.key.verify_key == key.verify_key
    with pytest.raises(ConfigError, match="device enrol"):
        Identity.load(tmp_path / "elsewhere")


def test_enrolling_at_no_address_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        enrol_device("nowhere", "token", tmp_path, "kitchen")
    assert not (tmp_path / "device.json").exists()
