"""A device whose clock is off learns the time from the server that refuses it, once per request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from emberfleet.agent.client import Backoff, ServerClient
from emberfleet.agent.identity import Identity
from emberfleet.core.messages import ErrorReply, Reason, RefusedError
from emberfleet.core.offers import Mode
from emberfleet.server.rounds.plan import RoundPlan
from tests.fleet import RunningServer, Target, serve

PLAN = RoundPlan(mode=Mode.SEALED, cohort=2, minimum=2)
HOUR = 3600.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serve(tmp_path_factory.mktemp("fleet") / "server", PLAN, rounds=0) as running:
        yield running


@pytest.fixture
def identity(server: RunningServer, tmp_path: Path) -> Identity:
    agent = server.device(tmp_path / "device", Target(0.0))
    agent.close()
    return agent.identity


class Counting(httpx.HTTPTransport):
    """Counts what is sent, and may say another time than the server's."""

    def __init__(self, date: str | None = None) -> None:
        super().__init__()
        self.date = date
        self.count = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.count += 1
        response = super().handle_request(request)
        if self.date is not None:
            response.headers["date"] = self.date
        return response


def client_of(identity: Identity, clock: Callable[[], float], transport: Counting) -> ServerClient:
    return ServerClient(
        identity.server, identity.key, identity.device_id, Backoff(2, 0.001), clock=clock, transport=transport
    )


@pytest.mark.parametrize("off_s", [5 * HOUR, -5 * HOUR, -20 * 365 * 24 * HOUR, 400.0])
def test_a_clock_that_is_off_is_corrected_once(identity: Identity, off_s: float) -> None:
    transport = Counting()
    client = client_of(identity, lambda: time.time() + off_s, transport)
    assert client.latest().version == 1
    assert transport.count == 2
    client.close()


def test_a_clock_within_the_window_is_left_alone(identity: Identity) -> None:
    transport = Counting()
    client = client_of(identity, lambda: time.time() - 200, transport)
    client.latest()
    assert transport.count == 1
    client.close()


def test_a_battery_less_clock_that_starts_at_1970_downloads_and_goes_on(
    identity: Identity, tmp_path: Path
) -> None:
    begin = time.monotonic()
    transport = Counting()
    client = client_of(identity, lambda: time.monotonic() - begin, transport)
    info = client.latest()
    assert client.download(info, tmp_path / "part")
    assert client.ask_work(1).model == info
    assert transport.count == 4
    client.close()


@pytest.mark.parametrize(
    "date",
    [
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "yesterday",
        "",
        "Mon, 01 Jan 2035 00:00:00 GMT",
    ],
)
def test_a_time_that_cannot_be_is_not_believed_and_a_wrong_one_only_once(
    identity: Identity, date: str
) -> None:
    transport = Counting(date)
    client = client_of(identity, lambda: time.time() - HOUR, transport)
    with pytest.raises(RefusedError) as caught:
        client.latest()
    assert caught.value.reason is Reason.CLOCK
    assert transport.count == (2 if "2035" in date else 1)
    client.close()


def test_a_lying_answer_cannot_make_a_device_ask_for_ever(identity: Identity) -> None:
    refusal = ErrorReply(Reason.CLOCK, "no", "no").encode()
    asked: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(1)
        return httpx.Response(401, content=refusal, headers={"date": "Mon, 01 Jan 2035 00:00:00 GMT"})

    client = ServerClient(
        identity.server,
        identity.key,
        identity.device_id,
        Backoff(5, 0.001),
        transport=httpx.MockTransport(answer),
    )
    with pytest.raises(RefusedError):
        client.latest()
    assert len(asked) == 2
    client.close()
