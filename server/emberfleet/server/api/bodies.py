"""Reading request bodies: no more bytes than announced, not slower than a least rate, within a budget.

What a slow or hostile client can hold is what it has really sent: the budget counts bytes as they come
and not as they are announced, so hundreds of connections that send a byte a second hold next to
nothing, and each ends as soon as it has fallen behind the least rate.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

from starlette.requests import ClientDisconnect, Request

from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.requests import SignedHead, check_body

BUDGET_BYTES: Final = 64 << 20
OWNER_BYTES: Final = 4 << 20
GRACE_S: Final = 10.0
LEAST_BYTES_PER_S: Final = 16 << 10
RETRY_AFTER_S: Final = 2.0


class BodyBudget:
    """How many bytes of bodies may be in memory: over all requests, and for one device."""

    def __init__(self, total_bytes: int = BUDGET_BYTES, owner_bytes: int = OWNER_BYTES) -> None:
        self._total_bytes, self._owner_bytes = total_bytes, owner_bytes
        self._by_owner: Counter[str] = Counter()
        self.held_bytes = 0

    def take(self, owner: str, size: int) -> None:
        """Count bytes that came.

        Raises:
            RefusedError: BUSY: there is no room for them.
        """
        if self.held_bytes + size > self._total_bytes or self._by_owner[owner] + size > self._owner_bytes:
            raise RefusedError(
                Reason.BUSY,
                "the server holds as many requests as it has memory for",
                "Try again later.",
                RETRY_AFTER_S,
            )
        self.held_bytes += size
        self._by_owner[owner] += size

    def give_back(self, owner: str, size: int) -> None:
        """The bytes are no longer in memory."""
        self.held_bytes -= size
        self._by_owner[owner] -= size
        if not self._by_owner[owner]:
            del self._by_owner[owner]


@contextlib.asynccontextmanager
async def read_body(
    request: Request, limit: int, budget: BodyBudget, owner: str = ""
) -> AsyncIterator[bytes]:
    """A request's whole body, of at most `limit` bytes, counted in the budget while it is in use.

    The announced length is looked at before a byte is read, and the bytes are counted as they come.

    Raises:
        RefusedError: LENGTH_REQUIRED, TOO_LARGE, SLOW, BUSY or MALFORMED.
    """
    announced = request.headers.get("content-length", "")
    if not announced.isascii() or not announced.isdigit():
        raise RefusedError(
            Reason.LENGTH_REQUIRED, "the request does not say how long it is", "Send Content-Length."
        )
    length = int(announced) if len(announced) <= 18 else limit + 1
    if length > limit:
        raise RefusedError(
            Reason.TOO_LARGE, f"the request is larger than {limit} bytes", "Send it in smaller chunks."
        )
    pieces: list[bytes] = []
    received = 0
    begin = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout_at(begin + GRACE_S) as patience:
            async for piece in request.stream():
                if not piece:
                    continue
                budget.take(owner, len(piece))
                pieces.append(piece)
                received += len(piece)
                patience.reschedule(begin + GRACE_S + received / LEAST_BYTES_PER_S)
        yield b"".join(pieces)
    except TimeoutError as error:
        raise RefusedError(
            Reason.SLOW,
            f"{received} of {length} bytes came, slower than {LEAST_BYTES_PER_S} a second",
            "Try again.",
        ) from error
    except ClientDisconnect as error:
        raise RefusedError(Reason.MALFORMED, "the request ended before its body did", "Try again.") from error
    finally:
        budget.give_back(owner, received)


@contextlib.asynccontextmanager
async def read_signed_body(
    request: Request, head: SignedHead, limit: int, budget: BodyBudget
) -> AsyncIterator[bytes]:
    """The body that the signature covers."""
    async with read_body(request, limit, budget, head.device_id) as body:
        check_body(head, body)
        yield body
