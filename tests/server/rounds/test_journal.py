"""The journal: what arrives together is stored together, and nobody is told of what is not stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from emberfleet.core.digest import sha256_hex
from emberfleet.core.errors import StorageError
from emberfleet.server.rounds.journal import Journal
from emberfleet.server.rounds.rebuilding import rebuild, row_of
from emberfleet.server.rounds.state import Phase, Round
from emberfleet.server.rounds.steps import Kind, accept, advance
from emberfleet.server.storage.database import Database
from emberfleet.server.storage.tables import messages
from tests.server.rounds.devices import Device
from tests.server.rounds.secure_round import Play


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.in_file(tmp_path / "fleet.db")
    yield opened
    opened.close()


class Desk:
    """A journal of a fresh secure round, and how often it wrote."""

    def __init__(self, database: Database) -> None:
        self.play = Play()
        database.save_round(row_of(self.play.round))
        self.database, self.phases = database, list[Phase]()
        self.writes, self._save = 0, database.save_progress
        database.save_progress = self._count  # type: ignore[method-assign]
        self.journal = Journal(database, self.play.round, lambda: 0.0, self._moved)

    def _count(self, *arguments: object, **named: object) -> None:
        self.writes += 1
        self._save(*arguments, **named)  # type: ignore[arg-type]

    def _moved(self, _before: Round, after: Round) -> None:
        self.phases.append(after.phase)

    def put(self, device: Device) -> None:
        body = device.advert().encode()
        after = advance(accept(self.journal.head, Kind.ADVERT, device.id, body, 0.0), 0.0)
        self.journal.put_message(after, Kind.ADVERT, device.id, sha256_hex(body), body, 0.0)

    def rebuilt(self) -> Round:
        row = self.database.round(self.play.round.id)
        assert row is not None
        return rebuild(row, self.database.messages(row.id), 0.0)


def play(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(scenario())


def test_messages_that_arrive_together_take_one_write_and_are_told_after_it(database: Database) -> None:
    desk = Desk(database)

    async def scenario() -> None:
        for device in desk.play.devices:
            desk.put(device)
        assert desk.journal.head.phase is Phase.SHARES
        assert desk.journal.round.phase is Phase.KEYS
        assert desk.writes == 0
        await desk.journal.stored()
        assert desk.writes == 1
        assert desk.phases == [Phase.SHARES]
        assert desk.rebuilt() == desk.journal.round == desk.journal.head

    play(scenario)


def test_what_could_not_be_stored_does_not_count_and_may_come_again(database: Database) -> None:
    desk = Desk(database)
    first, second, third = desk.play.devices[:3]

    async def scenario() -> None:
        desk.put(first)
        await desk.journal.stored()
        before = desk.journal.round
        with database._transaction(flushed=False) as connection:
            # The third message of this round is there already, as if by another hand.
            desk.put(second)
            desk.put(third)
            body = {"round_id": before.id, "device_id": third.id, "kind": "advert", "sequence": 9}
            connection.execute(messages.insert().values(**body, digest="d" * 64, body=b"", accepted_at=0.0))
        with pytest.raises(StorageError):
            await desk.journal.stored()
        assert desk.journal.head == desk.journal.round == before
        assert desk.journal.digest_of(Kind.ADVERT, second.id) is None
        with database._transaction(flushed=False) as connection:
            connection.execute(messages.delete().where(messages.c.device_id == third.id))
        desk.put(second)
        await desk.journal.stored()
        assert desk.rebuilt() == desk.journal.round
        assert [message.sequence for message in database.messages(before.id)] == [0, 1]

    play(scenario)


def test_who_is_heard_is_not_written(database: Database) -> None:
    desk = Desk(database)

    async def scenario() -> None:
        desk.journal.hear(desk.journal.head)
        await desk.journal.stored()
        assert desk.writes == 0

    play(scenario)
