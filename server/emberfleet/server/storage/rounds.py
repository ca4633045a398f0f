"""Rounds and the messages they are made of.

A round is its row and its accepted messages: `server/rounds/rebuilding.py` folds them into the state that the
server had. A message is written with what it leads to, in one transaction. Where the body of a message is
large it lies in a file (`storage/files.py`), and its head stands here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from emberfleet.core.errors import StorageError
from emberfleet.core.messages import ModelInfo
from emberfleet.server.storage.connections import Connections
from emberfleet.server.storage.tables import messages, models, rounds


@dataclass(frozen=True, slots=True)
class RoundRow:
    """What is written down about a round.

    Attributes:
        plan: The settings of the round, as JSON values.
        terms: What its devices agree on, as the bytes that their digest is of; empty while it is open.
        entered: When each phase began, seconds since 1970: deadlines follow from it.
        cohort: Devices asked, in the order drawn.
        survivors: Positions in the roster whose updates are in the sum, once they are fixed.
        dropped: Devices of the cohort whose update is not in the model, once the round is over.
        culprits: Devices that were found to send what does not fit.
        accepted: How many updates count.
    """

    id: str
    number: int
    model_version: int
    phase: str
    opened_at: float
    started_at: float | None = None
    closed_at: float | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    terms: bytes = b""
    entered: Mapping[str, float] = field(default_factory=dict)
    cohort: tuple[str, ...] = ()
    survivors: tuple[int, ...] = ()
    dropped: tuple[str, ...] = ()
    culprits: tuple[str, ...] = ()
    accepted: int = 0
    failure: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RoundSummary:
    """A round in numbers: as `RoundRow`, with counts of devices in place of their ids."""

    number: int
    model_version: int
    phase: str
    started_at: float | None
    closed_at: float | None
    plan: Mapping[str, Any]
    accepted: int
    failure: str
    metrics: Mapping[str, float]
    cohort: int
    dropped: int
    culprits: int


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """An accepted message, as it was sent.

    Attributes:
        sequence: Counts the messages of a round in the order they were accepted.
        digest: SHA-256 of all that was sent.
        body: What was sent, or its head where the rest lies in a file.
    """

    device_id: str
    kind: str
    sequence: int
    digest: str
    body: bytes = field(repr=False)
    accepted_at: float


_ROUND: Final = sa.select(rounds).where(rounds.c.id == sa.bindparam("round_id"))
_SUMMARIES: Final = (
    sa.select(
        rounds.c.number,
        rounds.c.model_version,
        rounds.c.phase,
        rounds.c.started_at,
        rounds.c.closed_at,
        rounds.c.plan,
        rounds.c.accepted,
        rounds.c.failure,
        rounds.c.metrics,
        sa.func.json_array_length(rounds.c.cohort),
        sa.func.json_array_length(rounds.c.dropped),
        sa.func.json_array_length(rounds.c.culprits),
    )
    .order_by(rounds.c.number.desc(), rounds.c.opened_at.desc())
    .limit(sa.bindparam("last"))
)
_MESSAGES: Final = (
    sa.select(
        messages.c.device_id,
        messages.c.kind,
        messages.c.sequence,
        messages.c.digest,
        messages.c.body,
        messages.c.accepted_at,
    )
    .where(messages.c.round_id == sa.bindparam("round_id"))
    .order_by(messages.c.sequence)
)
_DIGEST: Final = sa.select(messages.c.digest).where(
    messages.c.round_id == sa.bindparam("round_id"),
    messages.c.device_id == sa.bindparam("device_id"),
    messages.c.kind == sa.bindparam("kind"),
)
_ADD_MESSAGE: Final = sa.insert(messages)
_FORGET_BODIES: Final = (
    sa.update(messages).where(messages.c.round_id == sa.bindparam("of_round")).values(body=b"")
)
KEPT_ROUNDS: Final = 16
"""For so many rounds a message that is sent again still gets its answer."""
_FORGET_ROUNDS: Final = sa.delete(messages).where(
    messages.c.round_id.in_(sa.select(rounds.c.id).where(rounds.c.number <= sa.bindparam("last")))
)
_TUPLES: Final = ("cohort", "survivors", "dropped", "culprits")
_COLUMNS: Final = tuple(RoundRow.__dataclass_fields__)


class RoundTables(Connections):
    """Rounds and messages."""

    def save_round(self, row: RoundRow) -> None:
        """Write a round as it is now, new or not."""
        self.save_progress(row.id, (), row)

    def save_progress(
        self, round_id: str, accepted: Sequence[StoredMessage], row: RoundRow | None, over: bool = False
    ) -> None:
        """Write accepted messages, and the round where they moved it on: all or nothing.

        A round that is over forgets what its devices sent, but for the digests.

        Raises:
            StorageError: The disk is full, or one of the messages is there already. Nothing was written.
        """
        values = None if row is None else _round_values(row)
        with self._transaction() as connection:
            if accepted:
                connection.execute(_ADD_MESSAGE, [_message_values(round_id, message) for message in accepted])
            if values is not None:
                _upsert_round(connection, values)
            if over and row is not None:
                _forget(connection, row)

    def save_publication(self, row: RoundRow, model: ModelInfo, now: float) -> None:
        """Write the end of a round and the model it made, and forget what its devices sent, in one."""
        with self._transaction() as connection:
            _upsert_round(connection, _round_values(row))
            connection.execute(sa.insert(models).values(**model.to_json(), published_at=now, round_id=row.id))
            _forget(connection, row)

    def add_round_metrics(self, round_id: str, metrics: Mapping[str, float]) -> None:
        """Add measurements made after a round was closed."""
        with self._transaction() as connection:
            found = connection.execute(_ROUND, {"round_id": round_id}).one().metrics
            statement = sa.update(rounds).where(rounds.c.id == round_id)
            connection.execute(statement.values(metrics={**found, **metrics}))

    def round(self, round_id: str) -> RoundRow | None:
        """A round by its id."""
        with self._transaction(flushed=False) as connection:
            row = connection.execute(_ROUND, {"round_id": round_id}).first()
        return None if row is None else _round_row(row)

    def unfinished_rounds(self) -> list[RoundRow]:
        """Rounds that are not over, oldest first."""
        wanted = sa.select(rounds).where(rounds.c.closed_at.is_(None)).order_by(rounds.c.number)
        with self._transaction(flushed=False) as connection:
            return [_round_row(row) for row in connection.execute(wanted)]

    def rounds(self, last: int = 1000) -> list[RoundRow]:
        """The newest rounds, oldest of them first."""
        newest = sa.select(rounds).order_by(rounds.c.number.desc(), rounds.c.opened_at.desc()).limit(last)
        with self._transaction(flushed=False) as connection:
            found = connection.execute(newest).all()
        return [_round_row(row) for row in reversed(found)]

    def summaries(self, last: int = 1000) -> list[RoundSummary]:
        """The newest rounds in numbers, oldest of them first: for who asks often."""
        with self._transaction(flushed=False) as connection:
            found = connection.execute(_SUMMARIES, {"last": last}).all()
        return [RoundSummary(*row) for row in reversed(found)]

    def messages(self, round_id: str) -> list[StoredMessage]:
        """All messages of a round, in the order they were accepted."""
        with self._transaction(flushed=False) as connection:
            return [StoredMessage(*row) for row in connection.execute(_MESSAGES, {"round_id": round_id})]

    def message_digest(self, round_id: str, device_id: str, kind: str) -> str | None:
        """The digest of what a device sent, also after its round is over."""
        key = {"round_id": round_id, "device_id": device_id, "kind": kind}
        with self._transaction(flushed=False) as connection:
            found = connection.execute(_DIGEST, key).scalar_one_or_none()
        return None if found is None else str(found)


def _forget(connection: sa.Connection, row: RoundRow) -> None:
    connection.execute(_FORGET_BODIES, {"of_round": row.id})
    connection.execute(_FORGET_ROUNDS, {"last": row.number - KEPT_ROUNDS})


def _message_values(round_id: str, message: StoredMessage) -> dict[str, Any]:
    return {
        "round_id": round_id,
        "device_id": message.device_id,
        "kind": message.kind,
        "sequence": message.sequence,
        "digest": message.digest,
        "body": message.body,
        "accepted_at": message.accepted_at,
    }


def _upsert_round(connection: sa.Connection, values: dict[str, Any]) -> None:
    changed = connection.execute(sa.update(rounds).where(rounds.c.id == values["id"]).values(values))
    if not changed.rowcount:
        connection.execute(sa.insert(rounds).values(values))


def _round_values(row: RoundRow) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(row, name) for name in _COLUMNS}
    values.update({name: list(values[name]) for name in _TUPLES})
    values.update({name: dict(values[name]) for name in ("plan", "entered", "metrics")})
    try:
        json.dumps({name: value for name, value in values.items() if name != "terms"}, allow_nan=False)
    except ValueError as error:
        raise StorageError(f"round {row.number} holds a number that is not finite") from error
    return values


def _round_row(row: Any) -> RoundRow:
    values = dict(row._mapping)
    values.update({name: tuple(values[name]) for name in _TUPLES})
    return RoundRow(**values)
