"""The tables of the fleet and the questions the server asks them.

SQLite in write-ahead mode, so the command line (`server token`, `server revoke`, `server status`)
reads and writes beside the running server, and a revocation counts from the next request on. Every
method is one transaction. Foreign errors become `StorageError` here.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from emberfleet.core.errors import EnrolmentError, StorageError
from emberfleet.core.messages import ModelInfo

SCHEMA_VERSION: Final = 1
_metadata = sa.MetaData()

devices = sa.Table(
    "devices",
    _metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("public_key", sa.LargeBinary(32), nullable=False),
    sa.Column("name", sa.String(80), nullable=False),
    sa.Column("enrolled_at", sa.Float, nullable=False),
    sa.Column("revoked_at", sa.Float),
)
tokens = sa.Table(
    "tokens",
    _metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("made_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Column("used_at", sa.Float),
    sa.Column("device_id", sa.String(32)),
)
nonces = sa.Table(
    "nonces",
    _metadata,
    sa.Column("device_id", sa.String(32), primary_key=True),
    sa.Column("nonce", sa.String(64), primary_key=True),
    sa.Column("seen_at", sa.Float, nullable=False, index=True),
    sqlite_with_rowid=False,
)
rounds = sa.Table(
    "rounds",
    _metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False, index=True),
    sa.Column("model_version", sa.Integer, nullable=False),
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("opened_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float),
    sa.Column("closed_at", sa.Float),
    sa.Column("cohort", sa.JSON, nullable=False),
    sa.Column("dropped", sa.JSON, nullable=False),
    sa.Column("accepted", sa.Integer, nullable=False),
    sa.Column("failure", sa.Text, nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
)
updates = sa.Table(
    "updates",
    _metadata,
    sa.Column("round_id", sa.String(32), primary_key=True),
    sa.Column("device_id", sa.String(32), primary_key=True),
    sa.Column("sample_count", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("accepted_at", sa.Float, nullable=False),
)
models = sa.Table(
    "models",
    _metadata,
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.Integer, nullable=False),
    sa.Column("published_at", sa.Float, nullable=False),
    sa.Column("round_id", sa.String(32)),
)


@dataclass(frozen=True, slots=True)
class Device:
    """An enrolled device."""

    id: str
    public_key: bytes
    name: str
    enrolled_at: float
    revoked_at: float | None


@dataclass(frozen=True, slots=True)
class RoundRow:
    """What is written down about a round."""

    id: str
    number: int
    model_version: int
    phase: str
    opened_at: float
    started_at: float | None
    closed_at: float | None
    cohort: tuple[str, ...]
    dropped: tuple[str, ...]
    accepted: int
    failure: str
    metrics: Mapping[str, float]


def hash_token(token: str) -> str:
    """All that is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


class Database:
    """The fleet's tables behind methods; the only place with SQL."""

    def __init__(self, url: str | sa.URL) -> None:
        """Open, and make the tables where they are missing."""
        self._engine = sa.create_engine(url)
        sa.event.listen(self._engine, "connect", _prepare_sqlite)
        with self._transaction() as connection:
            _metadata.create_all(connection)

    @classmethod
    def in_file(cls, path: str | Path) -> Database:
        """The SQLite database in a file."""
        return cls(sa.URL.create("sqlite", database=str(path)))

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def add_token(self, token: str, now: float, lifetime_s: float) -> None:
        """Remember the hash of a fresh one-time token."""
        with self._transaction() as connection:
            row = {"hash": hash_token(token), "made_at": now, "expires_at": now + lifetime_s}
            connection.execute(sa.insert(tokens).values(row))

    def enrol(self, token: str, device: Device, now: float) -> None:
        """Spend a token and add the device, both or neither.

        A device that sends its request again, because the answer was lost, is let in again by the
        token it spent.

        Raises:
            EnrolmentError: No such token, expired, or spent by another device.
        """
        wanted = hash_token(token)
        with self._transaction() as connection:
            row = connection.execute(sa.select(tokens).where(tokens.c.hash == wanted)).first()
            found = "" if row is None else str(row.hash)
            if row is None or not hmac.compare_digest(found, wanted):
                raise EnrolmentError("no such enrolment token")
            if row.used_at is not None and row.device_id == device.id:
                return
            if row.used_at is not None or row.expires_at < now:
                raise EnrolmentError("the enrolment token was used already or has expired")
            spent = connection.execute(
                sa.update(tokens)
                .where(tokens.c.hash == wanted, tokens.c.used_at.is_(None))
                .values(used_at=now, device_id=device.id)
            )
            if spent.rowcount != 1:
                raise EnrolmentError("the enrolment token was used already or has expired")
            known = connection.execute(sa.select(devices.c.id).where(devices.c.id == device.id)).first()
            if known is not None:
                raise EnrolmentError("this device's key is enrolled already")
            connection.execute(
                sa.insert(devices).values(
                    id=device.id,
                    public_key=device.public_key,
                    name=device.name,
                    enrolled_at=device.enrolled_at,
                )
            )

    def device(self, device_id: str) -> Device | None:
        """A device by its id, revoked or not."""
        with self._transaction() as connection:
            row = connection.execute(sa.select(devices).where(devices.c.id == device_id)).first()
        return None if row is None else Device(**row._mapping)

    def devices(self) -> list[Device]:
        """All devices, first enrolled first."""
        with self._transaction() as connection:
            rows = connection.execute(sa.select(devices).order_by(devices.c.enrolled_at, devices.c.id)).all()
        return [Device(**row._mapping) for row in rows]

    def revoke(self, device_id: str, now: float) -> bool:
        """Shut a device out; False where there is none of that id."""
        with self._transaction() as connection:
            statement = sa.update(devices).where(devices.c.id == device_id)
            done = connection.execute(
                statement.values(revoked_at=sa.func.coalesce(devices.c.revoked_at, now))
            )
        return bool(done.rowcount)

    def spend_nonce(self, device_id: str, nonce: str, now: float) -> bool:
        """Remember a nonce; False where the device has used it before."""
        try:
            with self._transaction() as connection:
                connection.execute(sa.insert(nonces).values(device_id=device_id, nonce=nonce, seen_at=now))
        except StorageError as error:
            if isinstance(error.__cause__, IntegrityError):
                return False
            raise
        return True

    def forget_nonces(self, before: float) -> None:
        """Drop nonces too old to be replayed."""
        with self._transaction() as connection:
            connection.execute(sa.delete(nonces).where(nonces.c.seen_at < before))

    def save_round(self, row: RoundRow) -> None:
        """Write a round as it is now, new or not."""
        values = _round_values(row)
        with self._transaction() as connection:
            _upsert_round(connection, values)

    def save_publication(self, row: RoundRow, model: ModelInfo, now: float) -> None:
        """Write the end of a round and the model it made, in one transaction."""
        with self._transaction() as connection:
            _upsert_round(connection, _round_values(row))
            connection.execute(sa.insert(models).values(**model.to_json(), published_at=now, round_id=row.id))

    def add_round_metrics(self, round_id: str, metrics: Mapping[str, float]) -> None:
        """Add measurements made after a round was closed."""
        with self._transaction() as connection:
            found = connection.execute(
                sa.select(rounds.c.metrics).where(rounds.c.id == round_id)
            ).scalar_one()
            statement = sa.update(rounds).where(rounds.c.id == round_id)
            connection.execute(statement.values(metrics={**found, **metrics}))

    def round(self, round_id: str) -> RoundRow | None:
        """A round by its id."""
        with self._transaction() as connection:
            row = connection.execute(sa.select(rounds).where(rounds.c.id == round_id)).first()
        return None if row is None else _round_row(row)

    def rounds(self, last: int = 1000) -> list[RoundRow]:
        """The newest rounds, oldest of them first."""
        with self._transaction() as connection:
            found = connection.execute(
                sa.select(rounds).order_by(rounds.c.number.desc(), rounds.c.opened_at.desc()).limit(last)
            ).all()
        return [_round_row(row) for row in reversed(found)]

    def add_update(
        self,
        round_id: str,
        device_id: str,
        sample_count: int,
        digest: str,
        metrics: Mapping[str, float],
        now: float,
    ) -> None:
        """Write down that an update counts."""
        with self._transaction() as connection:
            connection.execute(
                sa.insert(updates).values(
                    round_id=round_id,
                    device_id=device_id,
                    sample_count=sample_count,
                    digest=digest,
                    metrics=dict(metrics),
                    accepted_at=now,
                )
            )

    def update_digest(self, round_id: str, device_id: str) -> str | None:
        """The digest of the body that a device's accepted update came in."""
        with self._transaction() as connection:
            found = connection.execute(
                sa.select(updates.c.digest).where(
                    updates.c.round_id == round_id, updates.c.device_id == device_id
                )
            ).scalar_one_or_none()
        return None if found is None else str(found)

    def round_metrics(self, round_id: str) -> dict[str, float]:
        """Means of the devices' own measurements in a round, weighted by samples."""
        with self._transaction() as connection:
            rows = connection.execute(
                sa.select(updates.c.sample_count, updates.c.metrics).where(updates.c.round_id == round_id)
            ).all()
        sums: dict[str, tuple[float, int]] = {}
        for count, metrics in rows:
            for name, value in metrics.items():
                total, weight = sums.get(name, (0.0, 0))
                sums[name] = (total + count * value, weight + count)
        return {name: total / weight for name, (total, weight) in sums.items()}

    def add_model(self, model: ModelInfo, now: float) -> None:
        """Write down a model that did not come from a round."""
        with self._transaction() as connection:
            connection.execute(sa.insert(models).values(**model.to_json(), published_at=now))

    def latest_model(self) -> ModelInfo | None:
        """The newest model, or None before the first."""
        with self._transaction() as connection:
            row = connection.execute(sa.select(models).order_by(models.c.version.desc()).limit(1)).first()
        return None if row is None else ModelInfo(row.version, row.digest, row.size_bytes)

    def model(self, version: int) -> ModelInfo | None:
        """A model by its version."""
        with self._transaction() as connection:
            row = connection.execute(sa.select(models).where(models.c.version == version)).first()
        return None if row is None else ModelInfo(row.version, row.digest, row.size_bytes)

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StorageError(f"the server's database cannot be used: {type(error).__name__}") from error


def _prepare_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "busy_timeout=5000",
        f"user_version={SCHEMA_VERSION}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _upsert_round(connection: sa.Connection, values: dict[str, Any]) -> None:
    changed = connection.execute(sa.update(rounds).where(rounds.c.id == values["id"]).values(values))
    if not changed.rowcount:
        connection.execute(sa.insert(rounds).values(values))


def _round_values(row: RoundRow) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(row, name) for name in RoundRow.__dataclass_fields__}
    values.update(cohort=list(row.cohort), dropped=list(row.dropped), metrics=dict(row.metrics))
    json.dumps(values, allow_nan=False)
    return values


def _round_row(row: Any) -> RoundRow:
    values = dict(row._mapping)
    values.update(cohort=tuple(values["cohort"]), dropped=tuple(values["dropped"]))
    return RoundRow(**values)
