"""Every refusal over real HTTP: its status, its reason, and that nothing of it counts."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from emberfleet.agent.identity import Identity
from emberfleet.core.messages import (
    SEAL_INFO,
    EnrolRequest,
    Reason,
    Receipt,
    UpdateHeader,
    Upload,
    WorkReply,
    device_id_of,
)
from emberfleet.core.offers import Mode, RoundOffer
from emberfleet.core.requests import CLOCK_WINDOW_S, sign_request
from emberfleet.core.sealing import SealingKey, seal
from emberfleet.core.signing import SigningKey
from emberfleet.core.tokens import Token
from emberfleet.server.api.errors import FAMILIES, STATUS
from emberfleet.server.fleet import make_tokens
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.storage.database import Database
from tests.fleet import RunningServer, Target, serve, small_model

PLAN = RoundPlan(
    mode=Mode.SEALED,
    cohort=1,
    minimum=1,
    bits=32,
    deadline_s=300,
    lease_s=0,
    norm_bound=0.2,
    weight_bound=1000,
)


@dataclass
class Caller:
    """A device that says exactly what a test wants it to say."""

    address: str
    identity: Identity
    offer: RoundOffer | None = None

    def headers(self, method: str, target: str, body: bytes = b"", **changes: Any) -> dict[str, str]:
        values = {
            "now": time.time(),
            "device_id": self.identity.device_id,
            "key": self.identity.key,
            **changes,
        }
        return sign_request(values["key"], values["device_id"], method, target, body, values["now"])

    def ask(self, method: str, target: str, body: bytes = b"", **changes: Any) -> httpx.Response:
        headers = self.headers(method, target, body, **changes)
        return httpx.request(method, self.address + target, content=body or None, headers=headers)

    def put(self, body: bytes, **changes: Any) -> httpx.Response:
        """Send an update in one chunk."""
        digest = hashlib.sha256(body).hexdigest()
        return self.ask("PUT", f"{self.target}?offset=0&size={len(body)}&digest={digest}", body, **changes)

    @property
    def target(self) -> str:
        assert self.offer is not None
        return f"/v1/rounds/{self.offer.terms.round_id}/update"

    def body(
        self, payload: bytes | None = None, header: UpdateHeader | None = None, key: bytes = b""
    ) -> bytes:
        assert self.offer is not None
        offer = self.offer
        written = (header or self.header()).encode()
        content = bytes(offer.terms.update.size_bytes) if payload is None else payload
        return Upload.join(written, seal(key or offer.terms.round_key or b"", content, SEAL_INFO, written))

    def header(self) -> UpdateHeader:
        assert self.offer is not None
        return UpdateHeader(
            self.offer.terms.round_id, self.offer.terms.model.version, self.identity.device_id, 5
        )

    def floats(self, value: float) -> bytes:
        assert self.offer is not None
        values = np.zeros(self.offer.terms.update.size, "<f4")
        values[3] = value
        return values.tobytes()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serve(tmp_path_factory.mktemp("fleet") / "server", PLAN, rounds=0) as running:
        yield running


@pytest.fixture(scope="module")
def chosen(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Caller:
    """A device with a place in the round at hand."""
    return caller(server, tmp_path_factory.mktemp("chosen"), wait=10)


@pytest.fixture(scope="module")
def spare(server: RunningServer, chosen: Caller, tmp_path_factory: pytest.TempPathFactory) -> Caller:
    """A device that was not asked."""
    return replace(caller(server, tmp_path_factory.mktemp("spare"), wait=0), offer=chosen.offer)


def caller(server: RunningServer, folder: Path, wait: int) -> Caller:
    agent = server.device(folder, Target(0.0))
    agent.fetch_model()
    agent.close()
    made = Caller(server.address, agent.identity)
    reply = WorkReply.decode(made.ask("GET", f"/v1/work?model=1&wait={wait}").content)
    if reply.offer is not None:
        made.offer = RoundOffer.open(reply.offer, agent.identity.server_key)
    return made


def check(response: httpx.Response, status: int, reason: str) -> None:
    fields = response.json()
    assert (response.status_code, fields["reason"]) == (status, reason), fields
    assert fields["error"]
    assert fields["advice"]


BAD_UPLOADS: dict[str, tuple[Callable[[Any], bytes], int, str]] = {
    "NaN": (lambda c: c.body(c.floats(np.nan)), 422, "not_finite"),
    "infinity": (lambda c: c.body(c.floats(-np.inf)), 422, "not_finite"),
    "NaN in the metrics": (lambda c: c.body().replace(b'"metrics":{}', b'"metrics":NaN'), 422, "not_finite"),
    "a million times too large": (lambda c: c.body(c.floats(1e6)), 422, "out_of_range"),
    "a norm beyond the bound": (lambda c: c.body(c.floats(0.24)), 422, "norm"),
    "a weight beyond the bound": (
        lambda c: c.body(header=replace(c.header(), sample_count=1001)),
        422,
        "weight",
    ),
    "one value too few": (lambda c: c.body(bytes(c.offer.terms.update.size_bytes - 4)), 400, "wrong_length"),
    "one value alone": (lambda c: c.body(bytes(4)), 400, "wrong_length"),
    "no value": (lambda c: c.body(b""), 400, "wrong_length"),
    "one value too many": (lambda c: c.body(bytes(c.offer.terms.update.size_bytes + 4)), 400, "wrong_length"),
    "megabytes": (lambda c: bytes(1 << 20), 413, "too_large"),
    "not an upload": (lambda c: b"hello", 400, "malformed"),
    "nothing": (lambda c: b"", 400, "malformed"),
    "another round's": (lambda c: c.body(header=replace(c.header(), round_id="f" * 32)), 409, "other_round"),
    "another model's": (lambda c: c.body(header=replace(c.header(), model_version=9)), 409, "other_model"),
    "another device's": (lambda c: c.body(header=replace(c.header(), device_id="f" * 32)), 400, "malformed"),
    "another round's key": (lambda c: c.body(key=SealingKey.generate().public), 400, "not_sealed"),
    "a changed byte": (lambda c: c.body()[:-1] + b"\0", 400, "not_sealed"),
    "another header": (lambda c: c.body().replace(b'_count":5', b'_count":6'), 400, "not_sealed"),
    "no samples": (lambda c: c.body().replace(b'_count":5', b'_count":0'), 400, "malformed"),
    "negative samples": (lambda c: c.body(header=replace(c.header(), sample_count=-5)), 400, "malformed"),
    "1e15 samples": (lambda c: c.body(header=replace(c.header(), sample_count=10**15)), 400, "malformed"),
}


@pytest.mark.parametrize("name", BAD_UPLOADS)
def test_a_bad_upload_is_refused_and_does_not_count(name: str, server: RunningServer, chosen: Caller) -> None:
    make, status, reason = BAD_UPLOADS[name]
    check(chosen.put(make(chosen)), status, reason)
    assert server.status()["round"]["accepted"] == 0


def test_a_captured_request_is_refused_when_replayed(server: RunningServer, chosen: Caller) -> None:
    target = "/v1/models/latest"
    headers = chosen.headers("GET", target)
    assert httpx.get(server.address + target, headers=headers).status_code == 200
    check(httpx.get(server.address + target, headers=headers), 412, "replayed")


def test_a_device_that_is_not_enrolled_is_refused(chosen: Caller) -> None:
    key = SigningKey.generate()
    stranger = {"key": key, "device_id": device_id_of(key.verify_key.raw)}
    check(chosen.put(chosen.body(), **stranger), 401, "not_enrolled")


def test_a_forged_signature_is_refused(chosen: Caller) -> None:
    check(chosen.put(chosen.body(), key=SigningKey.generate()), 401, "bad_signature")


def test_an_unsigned_request_is_refused(server: RunningServer, chosen: Caller) -> None:
    for method, target in (("GET", "/v1/work"), ("GET", "/v1/models/1/bundle"), ("PUT", chosen.target)):
        check(httpx.request(method, server.address + target), 401, "bad_signature")


def test_a_changed_body_is_refused(server: RunningServer, chosen: Caller) -> None:
    body = chosen.body()
    target = f"{chosen.target}?offset=0&size={len(body)}&digest={'0' * 64}"
    headers = chosen.headers("PUT", target, body)
    answer = httpx.put(server.address + target, content=body[:-1] + bytes([body[-1] ^ 1]), headers=headers)
    check(answer, 401, "bad_signature")


@pytest.mark.parametrize("offset", [-CLOCK_WINDOW_S - 60, CLOCK_WINDOW_S + 60])
def test_a_wrong_clock_is_refused(chosen: Caller, offset: float) -> None:
    check(chosen.ask("GET", "/v1/models/latest", now=time.time() + offset), 401, "clock")


def test_a_device_that_was_not_asked_is_refused(chosen: Caller, spare: Caller) -> None:
    for place in ("alive", "decline"):
        check(spare.ask("POST", chosen.target.replace("update", place), b"x"), 403, "not_in_cohort")
    check(spare.put(b"x"), 403, "not_in_cohort")
    check(spare.ask("GET", spare.target), 403, "not_in_cohort")


def test_a_round_that_does_not_exist_is_refused(chosen: Caller) -> None:
    announced = f"?offset=0&size=1&digest={'0' * 64}"
    check(chosen.ask("PUT", f"/v1/rounds/{'e' * 32}/update{announced}", b"x"), 409, "other_round")
    check(chosen.ask("PUT", f"/v1/rounds/..%2f..%2fetc/update{announced}", b"x"), 404, "not_found")
    check(chosen.ask("PUT", f"/v1/rounds/latest/update{announced}", b"x"), 400, "malformed")


def test_a_body_of_ten_gigabytes_is_refused_before_it_is_sent(server: RunningServer, chosen: Caller) -> None:
    target = f"{chosen.target}?offset=0&size=5&digest={'0' * 64}"
    headers = {
        **chosen.headers("PUT", target, b"x"),
        "Content-Length": str(10 << 30),
        "Host": "server",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(f"PUT {target} HTTP/1.1\r\n{lines}\r\n".encode())
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413")


def test_a_body_that_does_not_say_its_length_is_refused(server: RunningServer, chosen: Caller) -> None:
    target = f"{chosen.target}?offset=0&size=2&digest={'0' * 64}"
    headers = chosen.headers("PUT", target, b"xy")
    pieces = iter((b"x", b"y"))
    answer = httpx.put(server.address + target, content=pieces, headers=headers)
    check(answer, 411, "length_required")


def test_a_path_that_does_not_exist_answers_in_the_same_form(server: RunningServer) -> None:
    check(httpx.get(server.address + "/v1/nothing"), 404, "not_found")
    check(httpx.get(server.address + "/v1/enrol"), 405, "method")


def test_versions_and_ranges_beyond_what_there_is_are_refused(chosen: Caller) -> None:
    check(chosen.ask("GET", "/v1/models/99/bundle"), 404, "not_found")
    check(chosen.ask("GET", "/v1/models/-1/bundle"), 400, "malformed")
    check(chosen.ask("GET", "/v1/work?model=x"), 400, "malformed")


def enrol(
    server: RunningServer, token: str, key: SigningKey, signer: SigningKey | None = None
) -> httpx.Response:
    body = EnrolRequest(Token.parse(token).secret, key.verify_key.raw, "test").encode()
    device_id = device_id_of(key.verify_key.raw)
    headers = sign_request(signer or key, device_id, "POST", "/v1/enrol", body, time.time())
    return httpx.post(server.address + "/v1/enrol", content=body, headers=headers)


def test_a_token_is_good_once(server: RunningServer) -> None:
    [token] = make_tokens(server.folder)
    assert enrol(server, token, SigningKey.generate()).status_code == 200
    check(enrol(server, token, SigningKey.generate()), 403, "bad_token")
    check(enrol(server, "made-up", SigningKey.generate()), 403, "bad_token")


def test_nobody_enrols_a_key_that_is_not_theirs(server: RunningServer) -> None:
    [token] = make_tokens(server.folder)
    check(enrol(server, token, SigningKey.generate(), signer=SigningKey.generate()), 401, "bad_signature")
    assert enrol(server, token, SigningKey.generate()).status_code == 200


def test_an_expired_token_is_refused(server: RunningServer) -> None:
    [token] = make_tokens(server.folder, lifetime_s=10, now=time.time() - 11)
    check(enrol(server, token, SigningKey.generate()), 403, "bad_token")


def test_a_revoked_device_is_shut_out_at_once(server: RunningServer, tmp_path: Path) -> None:
    device = caller(server, tmp_path, wait=0)
    database = Database.in_file(server.folder / "fleet.db")
    assert database.revoke(device.identity.device_id, time.time())
    database.close()
    check(device.ask("GET", "/v1/models/latest"), 403, "revoked")


def test_a_good_update_counts_once_and_the_next_is_late(server: RunningServer, chosen: Caller) -> None:
    body = chosen.body()
    first = chosen.put(body)
    assert Receipt.decode(first.content).accepted == 1
    server.wait_for_rounds(1)
    check(chosen.put(body), 410, "late")
    check(chosen.put(chosen.body(chosen.floats(0.1))), 410, "late")
    for name, value in server.model(2).items():
        np.testing.assert_array_equal(value, small_model()[name])


def test_every_reason_has_a_status_and_every_status_is_of_the_right_kind() -> None:
    assert set(STATUS) == set(Reason)
    assert all(400 <= status < 600 for status in STATUS.values())
    named = ("not_finite", "wrong_length", "too_large", "other_round", "replayed", "not_enrolled")
    assert len({STATUS[Reason(name)] for name in named}) == len(named)
    assert len({family for family, _, _ in FAMILIES}) == len(FAMILIES)


def test_a_refusal_is_small_and_says_nothing_of_the_server(chosen: Caller) -> None:
    answer = chosen.put(chosen.body() + struct.pack("<f", 1.0))
    text = json.dumps(answer.json())
    assert len(text) < 500
    assert "/" not in text.replace("docs/protocol.md", "").replace("application/json", "")
