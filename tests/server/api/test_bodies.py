"""Bodies of requests: bounded in all, for each device, and in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.requests import Request

from emberfleet.core.messages import Reason, RefusedError
from emberfleet.server.api import bodies
from emberfleet.server.api.bodies import BodyBudget, read_body

LIMIT = 1000
Pieces = Callable[[], AsyncIterator[bytes]]


def request(pieces: Pieces, announced: str | None) -> Request:
    """A request whose body comes in these pieces."""
    stream = pieces()

    async def receive() -> dict[str, Any]:
        try:
            return {"type": "http.request", "body": await anext(stream), "more_body": True}
        except StopAsyncIteration:
            return {"type": "http.request", "body": b"", "more_body": False}

    headers = [] if announced is None else [(b"content-length", announced.encode())]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)


async def at_once(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def read(sent: Request, budget: BodyBudget, owner: str = "a") -> bytes:
    async with read_body(sent, LIMIT, budget, owner) as body:
        assert budget.held_bytes >= len(body)
        return body


def reason_of(sent: Request, budget: BodyBudget | None = None) -> Reason:
    found = budget or BodyBudget()
    before = found.held_bytes
    with pytest.raises(RefusedError) as caught:
        asyncio.run(read(sent, found))
    assert found.held_bytes == before
    return caught.value.reason


def test_a_body_is_given_back_when_it_was_used() -> None:
    budget = BodyBudget()
    assert asyncio.run(read(request(lambda: at_once(b"he", b"llo"), "5"), budget)) == b"hello"
    assert budget.held_bytes == 0


@pytest.mark.parametrize("announced", ["1001", "10737418240", "9" * 30])
def test_a_large_body_is_refused_before_a_byte_is_read(announced: str) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("was read")
        yield b""

    assert reason_of(request(never, announced)) is Reason.TOO_LARGE


@pytest.mark.parametrize("announced", [None, "", "-1", "x", "1e3", "٣"])
def test_a_body_that_does_not_say_its_length_is_refused(announced: str | None) -> None:
    assert reason_of(request(lambda: at_once(b"x"), announced)) is Reason.LENGTH_REQUIRED


def test_what_one_device_and_all_devices_may_hold_is_bounded() -> None:
    budget = BodyBudget(total_bytes=100, owner_bytes=60)
    budget.take("a", 60)
    with pytest.raises(RefusedError) as caught:
        budget.take("a", 1)
    assert caught.value.reason is Reason.BUSY
    assert caught.value.retry_after_s
    budget.take("b", 40)
    with pytest.raises(RefusedError):
        budget.take("c", 1)
    budget.give_back("a", 60)
    budget.take("c", 50)
    assert budget.held_bytes == 90


def test_bytes_count_as_they_come_and_not_as_they_are_announced() -> None:
    budget = BodyBudget(total_bytes=10)
    budget.take("other", 4)
    assert asyncio.run(read(request(lambda: at_once(b"hello"), "1000"), budget)) == b"hello"
    assert reason_of(request(lambda: at_once(b"hello", b"there"), "10"), budget) is Reason.BUSY
    assert budget.held_bytes == 4


def test_a_body_that_falls_behind_the_least_rate_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "GRACE_S", 0.2)
    monkeypatch.setattr(bodies, "LEAST_BYTES_PER_S", 100)

    async def dribble() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.05)
            yield b"x"

    async def steady() -> AsyncIterator[bytes]:
        for _ in range(8):
            await asyncio.sleep(0.05)
            yield b"x" * 20

    assert reason_of(request(dribble, "1000")) is Reason.SLOW
    assert asyncio.run(read(request(steady, "160"), BodyBudget())) == b"x" * 160
