"""What stands between a request and its route: who asks, for the first time, and how much they send."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from starlette.requests import ClientDisconnect, Request

from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.requests import SignedHead, check_body, verify_head
from emberfleet.core.signing import VerifyKey
from emberfleet.server.storage.database import Database, Device

BODY_TIMEOUT_S: Final = 60.0


class Admission:
    """Checks requests against the enrolled devices."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def admit(self, request: Request) -> SignedHead:
        """Who sent a request, from its headers alone.

        Raises:
            RefusedError: BAD_SIGNATURE, NOT_ENROLLED, CLOCK, REVOKED or REPLAYED.
        """
        found: list[Device] = []

        def find_key(device_id: str) -> VerifyKey | None:
            device = self._database.device(device_id)
            if device is None:
                return None
            found.append(device)
            return VerifyKey(device.public_key)

        head = self._verify(request, find_key)
        if found[-1].revoked_at is not None:
            raise RefusedError(
                Reason.REVOKED,
                "this device was shut out of the fleet",
                "Ask the fleet's owner for a new token.",
            )
        return self._first_time(head)

    def admit_stranger(self, request: Request, device_id: str, key: VerifyKey) -> SignedHead:
        """Whether a request of a device not yet enrolled is signed by the key it brings."""
        return self._first_time(self._verify(request, lambda name: key if name == device_id else None))

    def _verify(self, request: Request, find_key: Callable[[str], VerifyKey | None]) -> SignedHead:
        headers = {name: request.headers[name] for name in request.headers}
        return verify_head(request.method, target_of(request), headers, self._clock(), find_key)

    def _first_time(self, head: SignedHead) -> SignedHead:
        if not self._database.spend_nonce(head.device_id, head.nonce, self._clock()):
            raise RefusedError(
                Reason.REPLAYED,
                "this very request was made before",
                "Sign every request anew, with a fresh nonce.",
            )
        return head


def target_of(request: Request) -> str:
    """Path and query exactly as they came over the wire."""
    path = request.scope["raw_path"].decode("ascii", "replace")
    query = request.scope["query_string"].decode("ascii", "replace")
    return f"{path}?{query}" if query else path


async def read_body(request: Request, limit: int) -> bytes:
    """A request's whole body, of at most `limit` bytes.

    The announced length is looked at before a byte is read, and the bytes are counted as they come,
    so no more than `limit` of them are ever held.

    Raises:
        RefusedError: LENGTH_REQUIRED, TOO_LARGE, SLOW or MALFORMED.
    """
    announced = request.headers.get("content-length", "")
    if not announced.isascii() or not announced.isdigit():
        raise RefusedError(
            Reason.LENGTH_REQUIRED, "the request does not say how long it is", "Send Content-Length."
        )
    length = int(announced) if len(announced) <= 18 else limit + 1
    if length > limit:
        raise _too_large(limit)
    pieces: list[bytes] = []
    received = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for piece in request.stream():
                received += len(piece)
                if received > limit:
                    raise _too_large(limit)
                pieces.append(piece)
    except TimeoutError as error:
        raise RefusedError(
            Reason.SLOW, f"the request took longer than {BODY_TIMEOUT_S:.0f} s", "Try again."
        ) from error
    except ClientDisconnect as error:
        raise RefusedError(Reason.MALFORMED, "the request ended before its body did", "Try again.") from error
    return b"".join(pieces)


async def read_signed_body(request: Request, head: SignedHead, limit: int) -> bytes:
    """The body that the signature covers."""
    body = await read_body(request, limit)
    check_body(head, body)
    return body


def _too_large(limit: int) -> RefusedError:
    return RefusedError(
        Reason.TOO_LARGE, f"the request is larger than {limit} bytes", "Send one update of the round's plan."
    )
