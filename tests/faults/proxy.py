"""A proxy between devices and the server that misbehaves as networks do: loses, doubles, delays, reorders.

It forwards real requests over real sockets, one connection each, and knows nothing of the protocol. What it
does to a request is drawn from a seeded generator, so a run can be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

MAX_HEAD_BYTES = 64 * 1024
TIMEOUT_S = 60.0


class Fault(StrEnum):
    """What happens to a request."""

    NONE = "none"
    LOST_REQUEST = "lost request"
    """The server never sees it; the device's connection breaks."""
    LOST_ANSWER = "lost answer"
    """The server has done its work, and the device does not hear of it."""
    DOUBLED = "doubled"
    """The server gets it twice, one after the other; the device gets the first answer."""
    DELAYED = "delayed"
    """Others overtake it."""


@dataclass
class MisbehavingProxy:
    """The proxy of one test; `happened` counts what it did."""

    upstream: str
    chances: Mapping[Fault, float]
    seed: int = 0
    longest_delay_s: float = 0.2
    happened: Counter[Fault] = field(default_factory=Counter)
    address: str = ""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._host, self._port = urlsplit(self.upstream).hostname, urlsplit(self.upstream).port

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        """Listen until `stop` is set."""
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        async with server:
            await stop.wait()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            async with asyncio.timeout(TIMEOUT_S):
                request = await _read_request(reader)
                answer = await self._misbehave(request)
                writer.write(answer)
                await writer.drain()
        writer.close()

    async def _misbehave(self, request: bytes) -> bytes:
        fault = self._draw()
        self.happened[fault] += 1
        if fault is Fault.LOST_REQUEST:
            return b""
        if fault is Fault.DELAYED:
            await asyncio.sleep(self._random.random() * self.longest_delay_s)
        answer = await self._forward(request)
        if fault is Fault.DOUBLED:
            await self._forward(request)
        return b"" if fault is Fault.LOST_ANSWER else answer

    def _draw(self) -> Fault:
        drawn = self._random.random()
        for fault, chance in self.chances.items():
            if drawn < chance:
                return fault
            drawn -= chance
        return Fault.NONE

    async def _forward(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(request)
            await writer.drain()
            return await reader.read(-1)
        finally:
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    """A whole request, asking the server to close the connection after its answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head[:-4].split(b"\r\n")
    names = {line.partition(b":")[0].strip().lower(): line.partition(b":")[2].strip() for line in lines[1:]}
    body = await reader.readexactly(int(names.get(b"content-length", b"0")))
    kept = [line for line in lines if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*kept, b"Connection: close", b"", b""]) + body


@contextmanager
def misbehaving_proxy(
    upstream: str, chances: Mapping[Fault, float], seed: int = 0
) -> Iterator[MisbehavingProxy]:
    """A proxy in a thread of its own, in front of the server at `upstream`."""
    proxy = MisbehavingProxy(upstream, chances, seed)
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    def run() -> None:
        loop.run_until_complete(proxy.serve(ready, stop))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=run, name="proxy", daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
