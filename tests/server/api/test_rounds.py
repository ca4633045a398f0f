"""The routes of a secure round over real HTTP: what is answered, held back, refused and shown."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from emberfleet.agent.agent import Agent
from emberfleet.agent.client import Backoff, ServerClient
from emberfleet.agent.identity import Identity
from emberfleet.core.offers import Mode, RoundOffer
from emberfleet.core.requests import sign_request
from emberfleet.core.secure.messages import Advert, Roster
from emberfleet.server.rounds.plan import RoundPlan
from tests.fleet import RunningServer, Target, at_work, serve
from tests.server.rounds.devices import Device, terms_of
from tests.server.rounds.secure_round import PLAN as SECURE

COUNT = 3
PLAN = RoundPlan(
    mode=Mode.SECURE, cohort=COUNT, minimum=3, pool=COUNT, pool_wait_s=60, lease_s=0, deadline_s=300
)


class Caller:
    """A device that says exactly what a test wants it to say."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.client = ServerClient(
            identity.server, identity.key, identity.device_id, backoff=Backoff(1, 0.01, 0.01)
        )
        self.device = Device(0, terms_of(SECURE))
        self.device.key, self.device.id = identity.key, identity.device_id

    def join(self) -> None:
        reply = self.client.ask_work(1, 20)
        assert reply.offer is not None
        self.device.terms = RoundOffer.open(reply.offer, self.identity.server_key).terms

    @property
    def round_id(self) -> str:
        return self.device.terms.round_id

    def ask(self, method: str, word: str, body: bytes = b"") -> httpx.Response:
        target = f"/v1/rounds/{self.round_id}/{word}"
        one = self.identity
        headers = sign_request(one.key, one.device_id, method, target, body, time.time())
        return httpx.request(method, one.server + target, content=body or None, headers=headers)

    def send(self, word: str, body: bytes) -> httpx.Response:
        return self.ask("POST", word, body)


def reason_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["reason"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with serve(tmp_path / "server", PLAN, rounds=1) as running:
        yield running


@pytest.fixture
def agents(server: RunningServer, tmp_path: Path) -> list[Agent]:
    made = [server.device(tmp_path / f"device{n}", Target(0.1 * n)) for n in range(COUNT)]
    for agent in made:
        agent.fetch_model()
    return made


@pytest.fixture
def callers(agents: list[Agent]) -> Iterator[list[Caller]]:
    """Devices with a place in the round at hand."""
    made = [Caller(agent.identity) for agent in agents]
    for agent in agents:
        agent.close()
    with ThreadPoolExecutor(COUNT) as threads:
        list(threads.map(Caller.join, made))
    yield made
    for caller in made:
        caller.client.close()


def test_a_secure_round_makes_the_mean_and_tells_no_measurement(
    server: RunningServer, agents: list[Agent]
) -> None:
    with at_work(agents):
        [row] = server.wait_for_rounds(1)
    assert (row["phase"], row["mode"], row["accepted"], row["metrics"]) == ("done", "secure", COUNT, {})
    assert server.model(2)["conv/bias"] == pytest.approx(0.1, abs=1e-4)


def test_a_message_sent_again_is_answered_alike_and_another_is_refused(callers: list[Caller]) -> None:
    first = callers[0]
    body = first.device.advert().encode()
    assert first.send("keys", body).status_code == 204
    assert first.send("keys", body).status_code == 204
    other = Advert.decode(body)
    again = Device(5, first.device.terms)
    again.key, again.id = first.device.key, first.device.id
    assert again.advert() != other
    assert reason_of(first.send("keys", again.advert().encode())) == (409, "already_accepted")


def test_what_is_not_there_yet_is_no_content_after_the_wait(callers: list[Caller]) -> None:
    first = callers[0]
    begin = time.monotonic()
    for word in ("roster?wait=1", "shares", "survivors", "confirmations"):
        response = first.ask("GET", word)
        assert (response.status_code, response.content) == (204, b"")
    assert time.monotonic() - begin >= 1
    assert reason_of(first.ask("GET", "roster?wait=soon")) == (400, "malformed")


def test_those_who_wait_are_answered_at_once_and_alike(callers: list[Caller]) -> None:
    for caller in callers[1:]:
        assert caller.send("keys", caller.device.advert().encode()).status_code == 204
    with ThreadPoolExecutor(COUNT) as threads:
        waiting = [threads.submit(caller.ask, "GET", "roster?wait=25") for caller in callers]
        time.sleep(0.2)
        assert not any(answer.done() for answer in waiting)
        begin = time.monotonic()
        callers[0].send("keys", callers[0].device.advert().encode())
        answers = [answer.result(20) for answer in waiting]
    assert time.monotonic() - begin < 10
    assert {answer.status_code for answer in answers} == {200}
    [data] = {answer.content for answer in answers}
    assert Roster.decode(data).ids == tuple(sorted(caller.identity.device_id for caller in callers))


def test_a_body_larger_than_the_round_allows_is_refused(callers: list[Caller]) -> None:
    first = callers[0]
    assert reason_of(first.send("keys", b"x" * 20_000)) == (413, "too_large")
    assert reason_of(first.send("disclosure", b"x" * 40_000)) == (413, "too_large")
    assert reason_of(first.send("shares", b"x" * 18_000)) == (413, "too_large")
    assert reason_of(first.send("shares", b"x" * 17_000)) == (400, "malformed")


def test_strangers_and_other_rounds_are_refused(
    server: RunningServer, callers: list[Caller], tmp_path: Path
) -> None:
    agent = server.device(tmp_path / "late", Target(0.0))
    agent.close()
    stranger = Caller(agent.identity)
    stranger.device.terms = callers[0].device.terms
    assert reason_of(stranger.send("keys", b"{}")) == (403, "not_in_cohort")
    assert reason_of(stranger.ask("GET", "roster")) == (403, "not_in_cohort")
    stranger.client.close()
    target = f"/v1/rounds/{'e' * 32}/keys"
    one = callers[0].identity
    headers = sign_request(one.key, one.device_id, "POST", target, b"{}", time.time())
    answer = httpx.post(one.server + target, content=b"{}", headers=headers)
    assert reason_of(answer) == (409, "other_round")
    unsigned = httpx.get(f"{one.server}/v1/rounds/{callers[0].round_id}/roster")
    assert reason_of(unsigned) == (401, "bad_signature")


def test_a_round_that_failed_is_over_for_those_who_wait(server: RunningServer, callers: list[Caller]) -> None:
    first, *others = callers
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(first.ask, "GET", "roster?wait=25")
        for caller in callers:
            assert caller.send("decline", b"").status_code == 204
        assert reason_of(waiting.result(20)) == (410, "late")
    assert reason_of(others[0].send("keys", others[0].device.advert().encode())) == (410, "late")
    row = server.rounds()[0]
    assert (row["phase"], row["failure"]) == ("failed", "0 of 3 devices sent keys, expected 3")


def test_the_status_says_how_far_a_round_is_and_names_nobody(
    server: RunningServer, callers: list[Caller]
) -> None:
    callers[0].send("keys", callers[0].device.advert().encode())
    now = server.status()["round"]
    assert (now["phase"], now["mode"], now["cohort"]) == ("keys", "secure", COUNT)
    assert now["secure"] == {
        "keys": 1, "shares": 0, "participants": 0, "survivors": 0, "confirmations": 0, "disclosures": 0,
    }  # fmt: skip
    page = httpx.get(server.address).text
    assert "1, secure: 1 of 3 sent keys" in page
    everything = page + httpx.get(f"{server.address}/v1/status").text
    assert not any(caller.identity.device_id in everything for caller in callers)
