"""A server that is gone at any moment goes on with its round on the same folder, and nothing is lost.

The devices are the simple ones of `devices.py`, the server is the real one without its routes. It is gone
before or after one of its writes, or at any other moment, without a word: no task is ended in order.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from emberfleet.core.errors import StorageError
from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.offers import Mode, RoundOffer
from emberfleet.core.signing import SigningKey
from emberfleet.server.fleet import Fleet, ServerConfig, change_plan, init_server
from emberfleet.server.registry.publisher import OpenedModel
from emberfleet.server.rounds.answering import Answer
from emberfleet.server.rounds.coordinator import Coordinator
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.rounds.steps import Kind
from tests.fleet import make_bundle, open_bundle, small_model
from tests.server.rounds.devices import Device, terms_of
from tests.server.rounds.secure_round import with_plan

PLAN = with_plan(cohort=5, lease_s=0, clip=1.0, server_optimizer="fedavgm", server_momentum=0.5)
KEY = SigningKey(b"s" * 32)
T = TypeVar("T")


class Gone(Exception):  # noqa: N818 - not an error: the moment at which a server is gone
    """The server is gone."""


class Server:
    """A server in one folder that may be gone at one of its writes, and is started again at once."""

    def __init__(self, folder: Path, plan: RoundPlan = PLAN) -> None:
        self.folder = folder
        first = make_bundle(small_model(), 1, KEY)
        init_server(folder, first, plan=plan, bundle_key=KEY, opener=self.open)
        self.writes, self.gone_at, self.after = 0, -1, False
        self.restarts = 0

    @staticmethod
    def open(data: bytes) -> OpenedModel:
        return open_bundle(data, (KEY.verify_key,))

    @staticmethod
    def publish(current: bytes, tensors: Any, version: int) -> bytes:
        return make_bundle(tensors, version, KEY)

    @property
    def coordinator(self) -> Coordinator:
        return self.fleet.coordinator

    def start(self) -> None:
        self.fleet = Fleet(ServerConfig(self.folder, self.publish, rounds=1, opener=self.open))
        self.down: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        database = self.fleet.database
        for name in ("save_progress", "save_publication"):
            setattr(database, name, self._watched(getattr(database, name)))
        self.coordinator.prepare()
        self.task = asyncio.create_task(self.coordinator.run())

    def _watched(self, write: Callable[..., None]) -> Callable[..., None]:
        def watched(*arguments: Any, **named: Any) -> None:
            if self.down.done():
                raise Gone
            self.writes += 1
            fatal = self.writes == self.gone_at
            if not fatal or self.after:
                write(*arguments, **named)
            if fatal:
                self.down.set_result(None)
                raise Gone

        return watched

    async def stop(self) -> None:
        if not self.down.done():
            self.down.set_result(None)
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.fleet.close()

    async def keep_up(self) -> None:
        """Start the server again whenever it is gone."""
        while True:
            await self.down
            await self.stop()
            self.restarts += 1
            self.start()

    async def ask(self, question: Callable[[Coordinator], Awaitable[T]]) -> T:
        """Ask until there is an answer, of whichever server."""
        while True:
            asked = asyncio.ensure_future(question(self.coordinator))
            await asyncio.wait((asked, self.down), return_when=asyncio.FIRST_COMPLETED)
            if asked.done() and not isinstance(asked.exception(), Gone | StorageError):
                return asked.result()
            asked.cancel()
            await asyncio.sleep(0.005)


def never() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


async def live(number: int, server: Server, sent: dict[tuple[int, Kind], bytes]) -> None:
    """A device's whole round; what it sends again are the same bytes."""
    device = Device(number, terms_of(PLAN))
    while True:
        reply = await server.ask(lambda c: c.wait_for_work(device.id, 1, 1.0, never()))
        if reply.offer is not None:
            break
    offer = RoundOffer.open(reply.offer, server.fleet.server_key.verify_key.raw)
    device.terms = offer.terms
    steps = np.random.default_rng(number).integers(-300, 300, offer.terms.update.size)
    device.change = (steps / 32767).astype(np.float32)
    round_id = offer.terms.round_id

    async def send(kind: Kind, body: bytes) -> None:
        assert sent.setdefault((number, kind), body) == body
        await server.ask(lambda c: c.accept(round_id, device.id, kind, body))

    async def told(what: Answer) -> bytes:
        while True:
            found = await server.ask(lambda c: c.answer(round_id, device.id, what, 1.0, never()))
            if found is not None:
                return found

    await send(Kind.ADVERT, device.advert().encode())
    await send(Kind.SHARES, device.shares(await told(Answer.ROSTER)).encode())
    device.open_mailbox(await told(Answer.SHARES))
    path = server.fleet.uploads.path(round_id, device.id)
    path.write_bytes(device.update())
    await server.ask(lambda c: c.accept_upload(round_id, device.id, path))
    await send(Kind.CONFIRMATION, device.confirmation(await told(Answer.SURVIVORS)).encode())
    try:
        await told(Answer.CONFIRMATIONS)
        await send(Kind.DISCLOSURE, device.disclosure().encode())
    except RefusedError as error:
        # The others' shares may have been enough.
        if error.reason is not Reason.LATE:
            raise


async def play(server: Server, whim: Callable[[], float] | None = None) -> bytes:
    """A round to its end, and the model that came of it."""
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    server.start()
    sent: dict[tuple[int, Kind], bytes] = {}
    helpers = [asyncio.create_task(server.keep_up())]

    async def be_gone() -> None:
        while whim is not None:
            await asyncio.sleep(whim())
            if not server.down.done():
                server.down.set_result(None)

    helpers.append(asyncio.create_task(be_gone()))
    try:
        async with asyncio.timeout(50):
            await asyncio.gather(*(live(number, server, sent) for number in range(5)))
            while server.coordinator.model.version == 1:
                await asyncio.sleep(0.005)
    finally:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        await server.stop()
    return check_folder(server.folder)


def check_folder(folder: Path) -> bytes:
    """The second model, after a look at what is stored of its round."""
    fleet = Fleet(ServerConfig(folder, Server.publish, rounds=1, opener=Server.open))
    try:
        rows = [row for row in fleet.database.rounds() if row.phase != "open"]
        assert [(row.phase, row.accepted, row.culprits, row.failure) for row in rows] == [("done", 5, (), "")]
        assert not any(message.body for message in fleet.database.messages(rows[0].id))
        assert [path.name for path in (folder / "optimizer").iterdir()] == ["000002.safetensors"]
        info = fleet.database.latest_model()
        assert info is not None
        assert info.version == 2
        return fleet.registry.load(info)[0]
    finally:
        fleet.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    server = Server(tmp_path_factory.mktemp("undisturbed") / "server")
    found = asyncio.run(play(server))
    assert server.restarts == 0
    return found


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_server_gone_at_any_write_makes_the_same_model(
    after: bool, undisturbed: bytes, tmp_path: Path
) -> None:
    for number in itertools.count(1):
        server = Server(tmp_path / str(number))
        server.gone_at, server.after = number, after
        assert asyncio.run(play(server)) == undisturbed
        if not server.restarts:
            break
    assert number > 8


@pytest.mark.parametrize("seed", range(4))
def test_a_server_gone_at_any_moment_makes_the_same_model(
    seed: int, undisturbed: bytes, tmp_path: Path
) -> None:
    generator = random.Random(seed)
    server = Server(tmp_path / "server")
    assert asyncio.run(play(server, lambda: generator.uniform(0.03, 0.4))) == undisturbed


def test_a_folder_whose_settings_changed_opens_a_new_round(tmp_path: Path) -> None:
    server = Server(tmp_path / "server")

    async def look() -> tuple[str, list[tuple[str, str]]]:
        server.start()
        while server.coordinator.round is None:
            await asyncio.sleep(0.005)
        found = server.coordinator.round.id
        rows = [(row.phase, row.failure) for row in server.fleet.database.rounds()]
        await server.stop()
        return found, rows

    first, _ = asyncio.run(look())
    assert asyncio.run(look()) == (first, [("open", "")])
    change_plan(server.folder, {"mode": Mode.SEALED.value})
    second, rows = asyncio.run(look())
    assert second != first
    assert rows == [("failed", "the settings were changed before its devices were drawn"), ("open", "")]
    assert [path.name for path in (server.folder / "rounds").iterdir()] == [second]
