"""What stands between a request and its route: who asks, and whether for the first time."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request

from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.requests import SignedHead, verify_head
from emberfleet.core.signing import VerifyKey
from emberfleet.server.storage.database import Database, Device


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
