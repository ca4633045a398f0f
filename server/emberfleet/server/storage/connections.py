"""Connections to the database, and what a transaction on each is worth.

A flushed transaction is on the disk when it returns, so what a device was told is known after a power cut
too. A quick one survives a killed process and not a power cut: it is for what may be forgotten then.

SQLite runs in write-ahead mode, so the command line (`server token`, `server revoke`, `server status`) reads
and writes beside the running server, and a revocation counts from the next request on. Connections stay
open: taking one from a pool costs more than most statements.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from emberfleet.core.errors import StorageError
from emberfleet.server.storage.tables import SCHEMA_VERSION, metadata


class Connections:
    """The two connections of one process; methods may be called from any thread, one at a time."""

    def __init__(self, url: str | sa.URL) -> None:
        """Open, and make the tables where they are missing.

        Raises:
            StorageError: The database cannot be used, or is of another version.
        """
        self._lock = threading.RLock()
        found = sa.make_url(url)
        sqlite = found.get_backend_name() == "sqlite"
        arguments = {"check_same_thread": False, "timeout": 5.0} if sqlite else {}
        self._engine = sa.create_engine(found, connect_args=arguments, poolclass=sa.NullPool)
        if sqlite:
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
        try:
            self._flushed = self._engine.connect()
            self._quick = self._engine.connect()
            self._quick.exec_driver_sql(
                "PRAGMA synchronous=NORMAL" if sqlite else "SET synchronous_commit TO off"
            )
            self._quick.commit()
            if sqlite:
                self._check_version()
            with self._transaction() as connection:
                metadata.create_all(connection)
        except SQLAlchemyError as error:
            self._engine.dispose()
            raise _unusable(error) from error

    @classmethod
    def in_file(cls, path: str | Path) -> Self:
        """The SQLite database in a file."""
        return cls(sa.URL.create("sqlite", database=str(path)))

    def close(self) -> None:
        """Give the connections back."""
        with self._lock:
            self._flushed.close()
            self._quick.close()
            self._engine.dispose()

    @contextmanager
    def _transaction(self, flushed: bool = True) -> Iterator[sa.Connection]:
        connection = self._flushed if flushed else self._quick
        with self._lock:
            try:
                with connection.begin():
                    yield connection
            except SQLAlchemyError as error:
                raise _unusable(error) from error

    def _check_version(self) -> None:
        version = self._flushed.exec_driver_sql("PRAGMA user_version").scalar_one()
        self._flushed.commit()
        if version not in (0, SCHEMA_VERSION):
            raise StorageError(
                f"the server's database is of version {version}, expected {SCHEMA_VERSION}: "
                "make a new server from the last model with emberfleet server init"
            )
        if version == 0:
            with self._transaction() as connection:
                connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")


def _prepare_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _unusable(error: SQLAlchemyError) -> StorageError:
    cause = getattr(error, "orig", None)
    return StorageError(f"the server's database cannot be used: {cause or type(error).__name__}")
