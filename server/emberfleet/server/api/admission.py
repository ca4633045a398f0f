"""What stands between a request and its route: who asks, and whether for the first time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from starlette.requests import Request

from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.requests import SignedHead, verify_head
from emberfleet.core.signing import VerifyKey
from emberfleet.server.api.nonces import SeenNonces
from emberfleet.server.storage.database import Database, Device

READING: Final = frozenset({"GET", "HEAD"})


class NonceTable(Protocol):
    """Remembers which requests were made."""

    def spend_nonce(self, device_id: str, nonce: str, now: float) -> bool:
        """Remember a nonce; False where the device has used it before."""


class Admission:
    """Checks requests against the enrolled devices."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._seen = SeenNonces()

    def admit(self, request: Request, replaced: bool = False) -> SignedHead:
        """Who sent a request, from its headers alone.

        Args:
            request: Its body is not read.
            replaced: Let the old key of a device that changed it pass, to ask for that answer again.

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
        if found[-1].revoked_at is not None and not (replaced and found[-1].replaced_by):
            raise shut_out()
        return self._first_time(request.method, head)

    def check_welcome(self, device_id: str) -> None:
        """Raise `RefusedError` (REVOKED) where a device was shut out since its request was admitted."""
        device = self._database.device(device_id)
        if device is None or device.revoked_at is not None:
            raise shut_out()

    def admit_stranger(self, request: Request, device_id: str, key: VerifyKey) -> SignedHead:
        """Whether a request of a device not yet enrolled is signed by the key it brings."""
        head = self._verify(request, lambda name: key if name == device_id else None)
        return self._first_time(request.method, head)

    def _verify(self, request: Request, find_key: Callable[[str], VerifyKey | None]) -> SignedHead:
        return verify_head(request.method, target_of(request), request.headers, self._clock(), find_key)

    def _first_time(self, method: str, head: SignedHead) -> SignedHead:
        """Requests that change something are remembered in the database, so beyond a restart too."""
        nonces: NonceTable = self._seen if method in READING else self._database
        if not nonces.spend_nonce(head.device_id, head.nonce, self._clock()):
            raise RefusedError(
                Reason.REPLAYED,
                "this very request was made before",
                "Sign every request anew, with a fresh nonce.",
            )
        return head


def shut_out() -> RefusedError:
    """What a revoked device is told."""
    return RefusedError(
        Reason.REVOKED, "this device was shut out of the fleet", "Ask the fleet's owner for a new token."
    )


def target_of(request: Request) -> str:
    """Path and query exactly as they came over the wire."""
    path = request.scope["raw_path"].decode("ascii", "replace")
    query = request.scope["query_string"].decode("ascii", "replace")
    return f"{path}?{query}" if query else path
