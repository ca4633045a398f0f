"""A device of a secure round that tries everything before it does the right thing, and something else after.

It is the real agent. Its transport holds back each of its messages: first come the attacks for that message,
signed with the device's key, then the message itself, then a second, different one. The other devices wait
with theirs until it is done, so that the round stays in the phase that is attacked.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from emberfleet.agent.identity import Identity
from emberfleet.core.messages import WorkReply
from emberfleet.core.offers import RoundOffer
from emberfleet.core.requests import sign_request
from emberfleet.core.secure.answers import Survivors
from emberfleet.core.secure.group import Graph, Group
from emberfleet.core.secure.messages import Mailbox, Roster

PHASES = ("keys", "shares", "update", "confirmation", "disclosure")


@dataclass(frozen=True)
class Attack:
    """What is sent in place of a message, and the reason that must come back.

    Attributes:
        make: From what the device knows, and the right message.
        after: Whether it is sent when the right message was taken already.
    """

    name: str
    instead_of: str
    make: Callable[[Told, bytes], bytes]
    reason: str = "malformed"
    after: bool = False


@dataclass
class Told:
    """What the device knows of the round, from what the server has answered."""

    identity: Identity
    answers: dict[str, bytes] = field(default_factory=dict)

    @property
    def offer(self) -> RoundOffer:
        envelope = WorkReply.decode(self.answers["work"]).offer
        assert envelope is not None
        return RoundOffer.open(envelope, self.identity.server_key)

    @property
    def roster(self) -> Roster:
        return Roster.decode(self.answers["roster"])

    @property
    def position(self) -> int:
        found = self.roster.position_of(self.identity.device_id)
        assert found is not None
        return found

    @property
    def group(self) -> Group:
        return Group(
            Graph(self.roster, self.offer.terms), Mailbox.decode(self.answers["shares"]).participants
        )

    @property
    def survivors(self) -> Survivors:
        return Survivors.decode(self.answers["survivors"])


@dataclass
class Heard:
    """What the server answered to an attack."""

    status: int
    reason: str
    accepted: int


class AttackingTransport(httpx.BaseTransport):
    """Sends the attacks on each message before and after it."""

    def __init__(self, identity: Identity, attacks: tuple[Attack, ...]) -> None:
        self.told = Told(identity)
        self.heard: dict[str, Heard] = {}
        self.done = {phase: threading.Event() for phase in PHASES}
        self._attacks = attacks
        self._real = httpx.HTTPTransport()
        self._client = httpx.Client()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Pass a request on, with what is tried around it."""
        word, body = request.url.path.rpartition("/")[2], request.read()
        if request.method == "GET":
            response = self._real.handle_request(request)
            data = response.read()
            if response.status_code == 200 and (word != "work" or WorkReply.decode(data).offer):
                self.told.answers[word] = data
            return response
        if word in PHASES and not self.done[word].is_set():
            self._attack(request, word, body, after=False)
            response = self._real.handle_request(request)
            response.read()
            assert response.is_success, response.text
            self._replay(request, body)
            self._attack(request, word, body, after=True)
            self.done[word].set()
            return response
        return self._real.handle_request(request)

    def _attack(self, request: httpx.Request, word: str, body: bytes, after: bool) -> None:
        for attack in self._attacks:
            if attack.instead_of == word and attack.after is after:
                response = self._send(request, attack.make(self.told, body))
                fields = response.json() if response.content else {}
                status = self._client.get(f"{self.told.identity.server}/v1/status").json()["round"]
                self.heard[attack.name] = Heard(
                    response.status_code, fields.get("reason", ""), status["accepted"]
                )

    def _send(self, request: httpx.Request, body: bytes) -> httpx.Response:
        path = request.url.path
        if request.method == "PUT":
            path += f"?offset=0&size={len(body)}&digest={hashlib.sha256(body).hexdigest()}"
        identity = self.told.identity
        headers = sign_request(identity.key, identity.device_id, request.method, path, body, time.time())
        return self._client.request(request.method, identity.server + path, content=body, headers=headers)

    def _replay(self, request: httpx.Request, body: bytes) -> None:
        """The very request again, as a listener would have it."""
        names = ("content-digest", "signature-input", "signature")
        headers = {name: request.headers[name] for name in names}
        response = self._client.request(request.method, str(request.url), content=body, headers=headers)
        word = request.url.path.rpartition("/")[2]
        self.heard[f"{word} replayed"] = Heard(response.status_code, response.json()["reason"], -1)

    def close(self) -> None:
        """Give the connections back."""
        self._real.close()
        self._client.close()


class WaitingTransport(httpx.HTTPTransport):
    """Holds a device's messages back until the attacker is through with that phase."""

    def __init__(self, done: dict[str, threading.Event]) -> None:
        super().__init__()
        self._done = done

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Pass a request on, in its time."""
        word = request.url.path.rpartition("/")[2]
        if request.method != "GET" and word in self._done:
            assert self._done[word].wait(60)
        return super().handle_request(request)
