"""The round at hand on its way to the disk.

What devices send is judged by the newest state and answered when it is stored. Messages that arrive together
are written together, in one transaction with the phase they lead to: flushing a disk takes as long as
reading a dozen requests. Until then nobody is told of the state they make, so a server that is killed
comes back with everything that anybody was told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from emberfleet.core.errors import StorageError
from emberfleet.server.rounds.rebuilding import final_row, row_of
from emberfleet.server.rounds.state import OVER, Round
from emberfleet.server.rounds.steps import Kind
from emberfleet.server.storage.database import Database, StoredMessage


class Journal:
    """Writes one round; belongs to the event loop.

    Attributes:
        round: As stored: what devices are told.
        head: With what is about to be stored: what messages are judged by.
    """

    def __init__(
        self,
        database: Database,
        round_: Round,
        clock: Callable[[], float],
        moved: Callable[[Round, Round], None],
        messages: Iterable[StoredMessage] = (),
    ) -> None:
        """Go on from a stored round.

        Args:
            database: Where it is written.
            round_: As it is stored, with these messages.
            clock: Seconds since 1970.
            moved: Told of the round before and after, whenever another phase was stored.
            messages: All that were accepted.
        """
        self._database, self._clock, self._moved = database, clock, moved
        self.round = self.head = round_
        self._digests = {(message.kind, message.device_id): message.digest for message in messages}
        self._sequence = len(self._digests)
        self._pending: list[StoredMessage] = []
        self._written: asyncio.Future[None] | None = None

    def digest_of(self, kind: Kind, device_id: str) -> str | None:
        """The digest of what a device sent of a kind, stored or about to be."""
        return self._digests.get((kind.value, device_id))

    async def stored(self) -> None:
        """Wait until everything at hand is stored.

        Raises:
            StorageError: It could not be, and does not count.
        """
        if self._written is not None:
            await asyncio.shield(self._written)

    def put_message(
        self, after: Round, kind: Kind, device_id: str, digest: str, body: bytes, now: float
    ) -> None:
        """Take a message and the state that it leads to; `stored` says when both are safe."""
        self._pending.append(StoredMessage(device_id, kind.value, self._sequence, digest, body, now))
        self._digests[kind.value, device_id] = digest
        self._sequence += 1
        self.put(after)

    def put(self, after: Round) -> None:
        """Take the next state; `stored` says when it is safe."""
        self.head = after
        if self._written is None:
            loop = asyncio.get_running_loop()
            self._written = loop.create_future()
            self._written.add_done_callback(_look_at)
            loop.call_soon(self.flush)

    def hear(self, after: Round) -> None:
        """Take a state that differs in who was heard alone: nothing that is stored."""
        if self._written is None:
            self.round = after
        self.head = after

    def flush(self) -> None:
        """Write now what is at hand; whoever waits for it is told whether it worked."""
        written = self._written
        if written is None:
            return
        before, after, pending = self.round, self.head, self._pending
        self._written, self._pending = None, []
        over = after.phase in OVER
        moved = after.phase is not before.phase
        row = None if not moved else final_row(after, self._clock()) if over else row_of(after)
        try:
            self._database.save_progress(after.id, pending, row, over)
        except StorageError as error:
            self.head = before
            for message in pending:
                del self._digests[message.kind, message.device_id]
            self._sequence -= len(pending)
            written.set_exception(error)
            return
        self.round = after
        written.set_result(None)
        if moved:
            self._moved(before, after)


def _look_at(future: asyncio.Future[None]) -> None:
    """Whoever sent the messages may be gone; a failure is not an accident of the event loop."""
    if not future.cancelled():
        future.exception()
