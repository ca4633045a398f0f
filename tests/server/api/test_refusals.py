"""Refusals over real HTTP of what is no attack, each with its status and its reason."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from emberfleet.core.messages import Reason
from emberfleet.core.offers import Mode
from emberfleet.core.requests import CLOCK_WINDOW_S
from emberfleet.core.signing import SigningKey
from emberfleet.server.api.errors import FAMILIES, STATUS
from emberfleet.server.fleet import make_tokens
from emberfleet.server.rounds.plan import RoundPlan
from tests.attacks.hostile import Caller, caller, check, enrol
from tests.fleet import RunningServer, serve

PLAN = RoundPlan(mode=Mode.SEALED, cohort=1, minimum=1, bits=32, deadline_s=300, lease_s=0)


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


def test_an_unsigned_request_is_refused(server: RunningServer, chosen: Caller) -> None:
    for method, target in (("GET", "/v1/work"), ("GET", "/v1/models/1/bundle"), ("PUT", chosen.target)):
        check(httpx.request(method, server.address + target), 401, "bad_signature")


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


def test_an_expired_token_is_refused(server: RunningServer) -> None:
    [token] = make_tokens(server.folder, lifetime_s=10, now=time.time() - 11)
    check(enrol(server, token, SigningKey.generate()), 403, "bad_token")


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
