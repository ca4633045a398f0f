"""The routes of a round: what devices send, stored before it is answered, and what they ask for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from emberfleet.core.messages import check_number, check_round_id
from emberfleet.server.api.bodies import read_signed_body
from emberfleet.server.rounds.answering import Answer
from emberfleet.server.rounds.steps import Kind

if TYPE_CHECKING:
    from emberfleet.server.fleet import Fleet

MAX_WAIT_S: Final = 25.0
PATHS: Final = {
    "keys": Kind.ADVERT,
    "shares": Kind.SHARES,
    "confirmation": Kind.CONFIRMATION,
    "disclosure": Kind.DISCLOSURE,
}
"""The last word of the path that a message is sent to."""
Handler = Callable[[Request], Awaitable[Response]]


def make_round_routes(fleet: Fleet) -> list[Route]:
    """The routes below `/v1/rounds/{round_id}`, but for uploads."""

    def taking(kind: Kind) -> Handler:
        async def take(request: Request) -> Response:
            head = fleet.admission.admit(request)
            round_id = check_round_id(request.path_params["round_id"])
            limit = fleet.coordinator.body_limit(round_id, head.device_id, kind)
            async with read_signed_body(request, head, limit, fleet.bodies) as body:
                await fleet.coordinator.accept(round_id, head.device_id, kind, body)
            return Response(status_code=204)

        return take

    def telling(what: Answer) -> Handler:
        async def tell(request: Request) -> Response:
            head = fleet.admission.admit(request)
            round_id = check_round_id(request.path_params["round_id"])
            async with hanging_up(request) as gone:
                found = await fleet.coordinator.answer(round_id, head.device_id, what, wait_of(request), gone)
            fleet.admission.check_welcome(head.device_id)
            if found is None:
                return Response(status_code=204)
            return Response(found, media_type="application/json")

        return tell

    async def alive(request: Request) -> Response:
        head = fleet.admission.admit(request)
        fleet.coordinator.hear(check_round_id(request.path_params["round_id"]), head.device_id)
        return Response(status_code=204)

    async def decline(request: Request) -> Response:
        head = fleet.admission.admit(request)
        await fleet.coordinator.decline(check_round_id(request.path_params["round_id"]), head.device_id)
        return Response(status_code=204)

    under = "/v1/rounds/{round_id}"
    return [
        *(Route(f"{under}/{word}", taking(kind), methods=["POST"]) for word, kind in PATHS.items()),
        *(Route(f"{under}/{what.value}", telling(what), methods=["GET"]) for what in Answer),
        Route(f"{under}/alive", alive, methods=["POST"]),
        Route(f"{under}/decline", decline, methods=["POST"]),
    ]


def wait_of(request: Request) -> float:
    """How long an answer may be held back: at most `MAX_WAIT_S`."""
    return min(float(check_number(request.query_params.get("wait", "0"), "wait")), MAX_WAIT_S)


@contextlib.asynccontextmanager
async def hanging_up(request: Request) -> AsyncIterator[asyncio.Future[None]]:
    """A future that is done when the connection of a request ends."""
    gone = asyncio.ensure_future(_until_gone(request))
    try:
        yield gone
    finally:
        gone.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
