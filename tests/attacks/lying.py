"""A server that lies to one device: what the real server answers is changed on its way there.

The lies are made with everything that the server's owner has: its keys, its database, the other devices'
messages. The other devices talk to the real server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from emberfleet.agent.agent import Outcome, Turn
from emberfleet.core.signing import SigningKey
from tests.faults.marked_fleet import MarkedFleet, agent_of, marked_plan

Lie = Callable[[bytes], bytes]
DEVICES, VICTIM = 5, 0


@dataclass
class LyingTransport(httpx.BaseTransport):
    """Passes requests on, and changes the answers to some of them.

    Attributes:
        lies: What becomes of an answer, by the last word of the path it is asked for.
        invented: What is answered to a question that the real server never sees.
        swallowed: Messages that are answered with success, and that the real server never sees.
        sent: What the device sent, by the last word of the path.
    """

    lies: dict[str, Lie] = field(default_factory=dict)
    swallowed: frozenset[str] = frozenset()
    invented: dict[str, Callable[[], bytes]] = field(default_factory=dict)
    sent: dict[str, list[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._real = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer as the lying server does."""
        name = request.url.path.rpartition("/")[2]
        body = request.read()
        if request.method != "GET":
            self.sent.setdefault(name, []).append(body)
            if name in self.swallowed:
                return httpx.Response(204)
        elif name in self.invented:
            return httpx.Response(200, content=self.invented[name]())
        response = self._real.handle_request(request)
        if request.method != "GET" or response.status_code != 200 or name not in self.lies:
            return response
        told = self.lies[name](response.read())
        headers = {"content-type": response.headers.get("content-type", "")}
        return httpx.Response(200, headers=headers, content=told)

    def close(self) -> None:
        """Give the connections back."""
        self._real.close()


@contextmanager
def lied_to(folder: Path) -> Iterator[MarkedFleet]:
    """A fleet at work whose first device is not yet, and will be lied to."""
    plan = marked_plan(
        cohort=DEVICES, minimum=3, pool_wait_s=20.0, keys_s=2.0, shares_s=2.0, deadline_s=6.0,
        confirm_s=2.0, unmask_s=2.0, lease_s=2.0, presence_s=5.0,
    )  # fmt: skip
    fleet = MarkedFleet(folder, DEVICES, plan)
    assert fleet.server.start()
    fleet.enrol()
    with fleet.at_work(range(1, DEVICES)):
        yield fleet
    fleet.server.stop()


def turn_of_the_victim(fleet: MarkedFleet, transport: LyingTransport) -> Turn:
    """How the next round ends for the device that is lied to."""
    agent = agent_of(fleet.root, VICTIM, transport)
    end = time.monotonic() + 40
    try:
        while time.monotonic() < end:
            turn = agent.run_once(wait_s=5)
            if turn.outcome in (Outcome.SENT, Outcome.LEFT):
                return turn
    finally:
        agent.close()
    raise AssertionError("the device did not come to an end")


def server_key(fleet: MarkedFleet) -> SigningKey:
    """The key that signs offers: the server's owner has it."""
    return SigningKey.load(fleet.root / "server" / "server.key")
