"""The route that takes updates in chunks: admit, read one chunk, keep it, and count the update when whole."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response

from emberfleet.core.errors import EmberError, FormatError
from emberfleet.core.messages import (
    MAX_CHUNK_BYTES,
    Reason,
    RefusedError,
    check_digest,
    check_number,
    check_round_id,
)
from emberfleet.server.api.bodies import read_signed_body
from emberfleet.server.api.errors import describe_refusal

if TYPE_CHECKING:
    from emberfleet.server.fleet import Fleet

_SAYS_NOTHING_OF_THE_UPDATE: Final = frozenset(
    {Reason.LATE, Reason.ALREADY_ACCEPTED, Reason.NOT_IN_COHORT}
    | {Reason.STORAGE, Reason.BUSY, Reason.INTERNAL}
)
"""Refusals after which a finished upload stays: it may count already, or be taken the next time."""


class Uploading:
    """Takes the chunks of a fleet's updates, one after the other for each device."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}

    async def progress(self, request: Request) -> Response:
        """Say how much of the device's update is here."""
        head = self._fleet.admission.admit(request)
        round_id = check_round_id(request.path_params["round_id"])
        self._fleet.coordinator.upload_limit(round_id, head.device_id)
        async with self._turn(head.device_id):
            found = await asyncio.to_thread(self._fleet.uploads.progress, round_id, head.device_id)
        return Response(found.encode(), media_type="application/json")

    async def take(self, request: Request) -> Response:
        """Take a chunk; the last one is answered by the receipt."""
        fleet = self._fleet
        head = fleet.admission.admit(request)
        device_id = head.device_id
        round_id = check_round_id(request.path_params["round_id"])
        offset = check_number(request.query_params.get("offset", ""), "offset")
        size = check_number(request.query_params.get("size", ""), "size")
        digest = check_digest(request.query_params.get("digest", ""))
        limit = fleet.coordinator.upload_limit(round_id, device_id)
        if size > limit:
            raise RefusedError(
                Reason.TOO_LARGE,
                f"the update is larger than {limit} bytes",
                "Send one update of the round's plan.",
            )
        async with (
            read_signed_body(request, head, MAX_CHUNK_BYTES, fleet.bodies) as chunk,
            self._turn(device_id),
        ):
            if size < 1 or offset + len(chunk) > size or not (chunk or offset == size):
                raise FormatError(f"update: {len(chunk)} bytes at {offset}, expected 1 or more within {size}")
            uploads = fleet.uploads
            progress = await asyncio.to_thread(
                uploads.write, round_id, device_id, size, digest, offset, chunk
            )
            if progress.received < size:
                return Response(progress.encode(), 202, media_type="application/json")
            await asyncio.to_thread(uploads.finish, round_id, device_id, size, digest)
            try:
                receipt = await fleet.coordinator.accept_upload(
                    round_id, device_id, uploads.path(round_id, device_id)
                )
            except EmberError as error:
                if describe_refusal(error).reason not in _SAYS_NOTHING_OF_THE_UPDATE:
                    uploads.drop(round_id, device_id)
                raise
        return Response(receipt.encode(), media_type="application/json")

    @contextlib.asynccontextmanager
    async def _turn(self, device_id: str) -> AsyncIterator[None]:
        """One request of a device at a time; the lock is forgotten when nobody waits for it."""
        lock, users = self._turns.get(device_id, (asyncio.Lock(), 0))
        self._turns[device_id] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._turns.pop(device_id)
            if users > 1:
                self._turns[device_id] = (lock, users - 1)
