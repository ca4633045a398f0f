"""HTTP/1.1 over one connection, as much of it as a simulated device needs: signed requests, one at a time.

A thousand clients of a library that people use would take more of the processor than the server does, and it
is the server that is measured. So this reads what our server sends (a status, headers, a body of a length
that is told) and refuses everything else.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from emberfleet.core.errors import FormatError
from emberfleet.core.messages import ErrorReply, RefusedError
from emberfleet.core.requests import sign_request
from emberfleet.core.signing import SigningKey

MAX_HEAD_BYTES: Final = 1 << 16
MAX_BODY_BYTES: Final = 64 << 20
OVERLOADED: Final = 503
TRIES: Final = 20
PAUSE_S: Final = 0.2


@dataclass(slots=True)
class Tally:
    """What was asked and how long the answers took, over all devices of a process.

    Attributes:
        seconds: By the kind of request; answers that a server holds back on purpose are not among them.
        held: Requests whose answers it may hold back.
        busy: Requests that were made again since the server said that it was busy.
        reconnected: Requests that were made again over a new connection; the server closes idle ones.
        late: Devices whose disclosure was no longer needed.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    held: int = 0
    busy: int = 0
    reconnected: int = 0
    late: int = 0

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        return asdict(self)


class Connection:
    """One device's connection to the server; opened when it is first used, and again when it was lost."""

    def __init__(self, host: str, port: int, key: SigningKey, device_id: str, tally: Tally) -> None:
        self._host, self._port, self._key, self._id, self._tally = host, port, key, device_id, tally
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, target: str, body: bytes = b"", kind: str = "") -> bytes:
        """Make a signed request.

        Args:
            method: GET, POST or PUT.
            target: Path and query.
            body: Whole.
            kind: Under which its time is counted; empty for one whose answer may be held back.

        Raises:
            RefusedError: The server refuses it.
            OSError: It cannot be reached.
        """
        for attempt in range(TRIES):
            begin = time.perf_counter()
            try:
                status, found = await self._exchange(method, target, body)
            except (ConnectionError, asyncio.IncompleteReadError):
                self.close()
                if attempt == TRIES - 1:
                    raise
                self._tally.reconnected += 1
                continue
            if status != OVERLOADED:
                break
            self._tally.busy += 1
            await asyncio.sleep(PAUSE_S * (attempt + 1))
        if kind:
            self._tally.seconds.setdefault(kind, []).append(time.perf_counter() - begin)
        else:
            self._tally.held += 1
        if not 200 <= status < 300:
            reply = ErrorReply.decode(found)
            raise RefusedError(reply.reason, reply.error, reply.advice, reply.retry_after_s)
        return found

    async def wait_for(self, target: str, wait_s: int = 20) -> bytes:
        """Ask until what is asked for has come."""
        while True:
            begin = time.perf_counter()
            found = await self.ask("GET", f"{target}?wait={wait_s}")
            if found:
                return found
            if time.perf_counter() - begin < 1:
                await asyncio.sleep(1)

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _exchange(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, limit=MAX_HEAD_BYTES)
        reader, writer = self._streams
        signed = sign_request(self._key, self._id, method, target, body, time.time())
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        lines += [f"{name}: {value}" for name, value in signed.items()]
        if body or method != "GET":
            lines.append(f"Content-Length: {len(body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode("ascii") + body)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
        }
        length = 0 if status == 204 else int(headers.get("content-length", "-1"))
        if not 0 <= length <= MAX_BODY_BYTES:
            raise FormatError(
                f"{method} {target}: an answer of {length} bytes, expected 0 to {MAX_BODY_BYTES}"
            )
        found = await reader.readexactly(length)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return status, found
