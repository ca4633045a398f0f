"""Simulated devices that go through one secure round, with the transitions that real devices run.

``python -m benchmarks.load.devices JSON`` is one process of them, JSON its `Crowd`; it answers with its
`Tally`. What is left out of a device: its folder, the download of the model, and the training.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

import numpy as np

from benchmarks.load.connection import Connection, Tally
from emberfleet.agent.rounds import secure
from emberfleet.agent.rounds.considering import Standing, consider_offer
from emberfleet.agent.rounds.state import DeviceRound, Secrets
from emberfleet.cli.fleet_figures.children import answer_once
from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import DeviceError
from emberfleet.core.messages import EnrolReply, EnrolRequest, Reason, RefusedError, WorkReply, device_id_of
from emberfleet.core.offers import RoundOffer
from emberfleet.core.secure.answers import Confirmations, Survivors
from emberfleet.core.secure.messages import Mailbox, Roster
from emberfleet.core.signing import SigningKey
from emberfleet.core.tokens import Token

Result = TypeVar("Result")
FLOOR: Final = 3
SWITCH_S: Final = 1e-3
"""How long the thread that computes may keep the one that talks waiting."""
WAIT_S: Final = 20
CHANGE: Final = 0.01
"""Of every value, on every device: so is what the model must have changed by."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """The devices of one process.

    Attributes:
        tokens: One for each device.
        vanishing: So many of them give up once they have shared their secrets.
    """

    host: str
    port: int
    tokens: Sequence[str]
    vanishing: int
    timeout_s: float


class SimulatedDevice:
    """One device: enrols, takes part in one round, and is done."""

    def __init__(
        self, crowd: Crowd, token: str, vanishes: bool, tally: Tally, computing: ThreadPoolExecutor
    ) -> None:
        self._key = SigningKey.generate()
        self._id = device_id_of(self._key.verify_key.raw)
        self._token, self._vanishes, self._tally = token, vanishes, tally
        self._connection = Connection(crowd.host, crowd.port, self._key, self._id, tally)
        self._party = secure.Party(self._key, FLOOR)
        self._computing = computing
        self._server_key = b""

    async def enrol(self) -> None:
        """Spend the token."""
        wish = EnrolRequest(Token.parse(self._token).secret, self._key.verify_key.raw, "simulated")
        reply = EnrolReply.decode(await self._connection.ask("POST", "/v1/enrol", wish.encode(), "enrol"))
        self._server_key = reply.server_key

    async def take_part(self) -> None:
        """From the offer to the disclosure."""
        envelope = await self._wait_for_offer()
        round_, advert = await self._aside(self._join, envelope)
        path, update = f"/v1/rounds/{round_.round_id}", round_.offer.terms.update
        await self._send(path, "keys", advert)
        roster = await self._connection.wait_for(f"{path}/roster")
        round_ = await self._aside(_take_roster, round_, roster, self._party)
        await self._send(path, "shares", round_.shares)
        mailbox = await self._connection.wait_for(f"{path}/shares")
        round_ = await self._aside(_take_mailbox, round_, mailbox, self._party)
        if self._vanishes:
            await self._send(path, "decline", b"")
            return
        change = np.full(update.size, CHANGE, np.float32)
        body = await self._aside(secure.mask_change, round_, change, 1)
        round_ = secure.keep_masked(round_, body)
        target = f"{path}/update?offset=0&size={len(body)}&digest={sha256_hex(body)}"
        await self._connection.ask("PUT", target, body, "update")
        survivors = await self._connection.wait_for(f"{path}/survivors")
        round_, confirmation = await self._aside(_take_survivors, round_, survivors, self._party)
        await self._send(path, "confirmation", confirmation)
        try:
            confirmed = await self._connection.wait_for(f"{path}/confirmations")
            round_ = await self._aside(_take_confirmations, round_, confirmed)
            await self._send(path, "disclosure", round_.disclosure)
        except RefusedError as error:
            # The server goes on as soon as every secret has as many shares as it takes.
            if error.reason is not Reason.LATE:
                raise
            self._tally.late += 1

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    async def _wait_for_offer(self) -> bytes:
        while True:
            reply = WorkReply.decode(await self._connection.ask("GET", f"/v1/work?model=1&wait={WAIT_S}"))
            if reply.offer is not None:
                return reply.offer

    def _join(self, envelope: bytes) -> tuple[DeviceRound, bytes]:
        offer = RoundOffer.open(envelope, self._server_key)
        consider_offer(offer, Standing(self._id, offer.terms.model, (), FLOOR))
        round_ = secure.join_round(offer, Secrets.draw(os.urandom))
        return round_, secure.advert_of(round_, self._party).encode()

    async def _aside(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Compute in another thread, so that answers are timed when they come."""
        return await asyncio.get_running_loop().run_in_executor(self._computing, work, *arguments)

    async def _send(self, path: str, name: str, body: bytes) -> None:
        await self._connection.ask("POST", f"{path}/{name}", body, name)


async def go_through(crowd: Crowd) -> dict[str, Any]:
    """All devices of this process, at the same time."""
    tally = Tally()
    sys.setswitchinterval(SWITCH_S)
    computing = ThreadPoolExecutor(1)
    devices = [
        SimulatedDevice(crowd, token, index < crowd.vanishing, tally, computing)
        for index, token in enumerate(crowd.tokens)
    ]
    try:
        async with asyncio.timeout(crowd.timeout_s):
            for device in devices:
                await device.enrol()
            begin = time.time()
            async with asyncio.TaskGroup() as tasks:
                for device in devices:
                    tasks.create_task(device.take_part())
    finally:
        for device in devices:
            device.close()
        computing.shutdown(cancel_futures=True)
    return {**tally.to_json(), "begin": begin, "end": time.time(), "processor_s": time.process_time()}


def _take_roster(round_: DeviceRound, data: bytes, party: secure.Party) -> DeviceRound:
    return secure.take_roster(round_, Roster.decode(data), party)


def _take_mailbox(round_: DeviceRound, data: bytes, party: secure.Party) -> DeviceRound:
    mailbox = Mailbox.decode(data, len(round_.graph.roster.members))
    after, left_out = secure.take_mailbox(round_, mailbox, party)
    if left_out:
        raise DeviceError(f"{len(left_out)} neighbours' shares were not good: {left_out[0]}")
    return after


def _take_survivors(round_: DeviceRound, data: bytes, party: secure.Party) -> tuple[DeviceRound, bytes]:
    survivors = Survivors.decode(data, len(round_.graph.roster.members))
    after = secure.take_survivors(round_, survivors, party)
    return after, secure.confirmation_of(after, party).encode()


def _take_confirmations(round_: DeviceRound, data: bytes) -> DeviceRound:
    return secure.take_confirmations(round_, Confirmations.decode(data, len(round_.graph.roster.members)))


def describe(crowd: Crowd) -> str:
    """For a command line."""
    return json.dumps(asdict(crowd))


if __name__ == "__main__":
    answer_once(lambda: asyncio.run(go_through(Crowd(**json.loads(sys.argv[1])))))
