"""How the application is put on the network: by uvicorn, with limits on connections and patience.

Uvicorn waits without end for a request's head, for the rest of a body that nobody reads any more, and for a
client that does not take its answer; `PatientProtocol` ends all three. Bodies that are read have their own
least rate (`api/bodies.py`).
"""

from __future__ import annotations

import asyncio
import resource
from enum import Enum
from pathlib import Path
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

KEEP_ALIVE_S: Final = 75
MAX_HEAD_BYTES: Final = 16 << 10
MOST_CONNECTIONS: Final = 10_000
FILES_BESIDE: Final = 256
"""File descriptors left for the database, uploads and bundles."""


class Wait(Enum):
    """What a connection waits for, and how many seconds at most."""

    HEAD = 10.0, "a whole head, from the connection or from its first byte"
    REST = 3.0, "the rest of a body, after the answer was given without it"
    TAKEN = 60.0, "the client to take something of its answer"


class PatientProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with an end to waiting."""

    _waits_for: Wait | None = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._attend()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._wait_for(None)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._attend()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._attend()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._attend()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._attend()

    def _attend(self) -> None:
        """See what the connection waits for now; a wait that goes on keeps its end."""
        state = self.conn.their_state
        if self.transport.is_closing():
            self._wait_for(None)
        elif self.flow.write_paused:
            self._wait_for(Wait.TAKEN)
        elif state is h11.SEND_BODY and self.cycle is not None and self.cycle.response_complete:
            self._wait_for(Wait.REST)
        elif state is h11.IDLE and self.timeout_keep_alive_task is None:
            self._wait_for(Wait.HEAD)
        else:
            self._wait_for(None)

    def _wait_for(self, what: Wait | None) -> None:
        if what is self._waits_for:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._waits_for = what
        self._timer = None if what is None else self.loop.call_later(what.value[0], self.transport.abort)


def make_config(
    application: Any, host: str, port: int, certificate: Path | None = None, key: Path | None = None
) -> uvicorn.Config:
    """Uvicorn's settings for a server of a fleet.

    Args:
        application: Made by `create_app`.
        host: Address to listen on.
        port: 0 for any that is free.
        certificate: For TLS (PEM), with its key; None for plain HTTP.
        key: The certificate's private key (PEM).
    """
    return uvicorn.Config(
        application,
        host,
        port,
        http=PatientProtocol,
        ws="none",
        log_level="info",
        access_log=False,
        server_header=False,
        limit_concurrency=raise_connection_limit(),
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )


def raise_connection_limit() -> int:
    """Let this process open as many files as it may, and say how many connections that makes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + FILES_BESIDE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    files = wanted if soft == resource.RLIM_INFINITY else soft
    return max(16, min(MOST_CONNECTIONS, files - FILES_BESIDE))
