"""The server as an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from emberfleet.core.errors import EmberError
from emberfleet.core.messages import Reason, RefusedError
from emberfleet.server.api.errors import answer_fault, answer_http_error, answer_refusal
from emberfleet.server.api.routes import make_routes
from emberfleet.server.fleet import Fleet, ServerConfig
from emberfleet.server.registry.freshness import keep_fresh

log = logging.getLogger(__name__)


def create_app(config: ServerConfig) -> Starlette:
    """The application of one server folder; its rounds run while it is served.

    Raises:
        ConfigError: The folder holds no server, or no model.
    """
    fleet = Fleet(config)

    @contextlib.asynccontextmanager
    async def serve_rounds(_app: Starlette) -> AsyncIterator[None]:
        fleet.coordinator.prepare()
        rounds = asyncio.create_task(fleet.coordinator.run())
        rounds.add_done_callback(_report)
        fresh = asyncio.create_task(keep_fresh(fleet.registry, fleet.releases.timestamp_s, config.clock))
        fresh.add_done_callback(_report)
        try:
            yield
        finally:
            for task in (rounds, fresh):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            fleet.close()

    async def answer_in_pace(request: Request, error: Exception) -> Response:
        """A refusal; to a device that was late, with a time to come back."""
        if isinstance(error, RefusedError) and error.reason is Reason.LATE and error.retry_after_s is None:
            error.retry_after_s = fleet.coordinator.retry_late_s()
        return await answer_refusal(request, error)

    return Starlette(
        routes=make_routes(fleet),
        lifespan=serve_rounds,
        exception_handlers={
            EmberError: answer_in_pace,
            HTTPException: answer_http_error,
            Exception: answer_fault,
        },
    )


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("a task of the server stopped", exc_info=task.exception())
