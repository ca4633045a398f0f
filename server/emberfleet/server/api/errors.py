"""The one table from reasons of refusal to HTTP status, and from error families to reasons."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from emberfleet.core.codec import NotFiniteError
from emberfleet.core.errors import (
    EmberError,
    EnrolmentError,
    FormatError,
    RoundError,
    SealError,
    ShapeError,
    SignatureError,
    StorageError,
)
from emberfleet.core.messages import ErrorReply, Reason, RefusedError
from emberfleet.core.updates import OutOfRangeError

log = logging.getLogger(__name__)

STATUS: Final[Mapping[Reason, int]] = {
    Reason.MALFORMED: 400,
    Reason.WRONG_LENGTH: 400,
    Reason.WRONG_DIGEST: 400,
    Reason.NOT_SEALED: 400,
    Reason.BAD_SIGNATURE: 401,
    Reason.NOT_ENROLLED: 401,
    Reason.CLOCK: 401,
    Reason.REVOKED: 403,
    Reason.BAD_TOKEN: 403,
    Reason.NOT_IN_COHORT: 403,
    Reason.NOT_FOUND: 404,
    Reason.METHOD: 405,
    Reason.SLOW: 408,
    Reason.OTHER_ROUND: 409,
    Reason.WRONG_OFFSET: 409,
    Reason.IN_ROUND: 409,
    Reason.OTHER_MODEL: 409,
    Reason.ALREADY_ACCEPTED: 409,
    Reason.LATE: 410,
    Reason.LENGTH_REQUIRED: 411,
    Reason.REPLAYED: 412,
    Reason.TOO_LARGE: 413,
    Reason.RANGE: 416,
    Reason.NOT_FINITE: 422,
    Reason.OUT_OF_RANGE: 422,
    Reason.NORM: 422,
    Reason.WEIGHT: 422,
    Reason.INTERNAL: 500,
    Reason.BUSY: 503,
    Reason.STORAGE: 507,
}

FAMILIES: Final[tuple[tuple[type[EmberError], Reason, str], ...]] = (
    (NotFiniteError, Reason.NOT_FINITE, "Train again; a NaN or infinity never counts."),
    (OutOfRangeError, Reason.OUT_OF_RANGE, "Clip the update as the round's plan says."),
    (ShapeError, Reason.WRONG_LENGTH, "Send the tensors of the round's plan, in its order."),
    (FormatError, Reason.MALFORMED, "Send what docs/protocol.md says."),
    (SealError, Reason.NOT_SEALED, "Seal the update to the key of the round's offer."),
    (SignatureError, Reason.BAD_SIGNATURE, "Sign with the key that this device enrolled with."),
    (EnrolmentError, Reason.BAD_TOKEN, "Ask the fleet's owner for a fresh token."),
    (RoundError, Reason.OTHER_ROUND, "Ask for work again."),
    (StorageError, Reason.STORAGE, "Try again later."),
)
"""First match wins, so a special case stands before its family."""


def describe_refusal(error: EmberError) -> ErrorReply:
    """What a device is told about an error."""
    if isinstance(error, RefusedError):
        return ErrorReply(error.reason, str(error), error.advice, error.retry_after_s, error.received)
    for family, reason, advice in FAMILIES:
        if isinstance(error, family):
            return ErrorReply(reason, _printable(str(error)), advice)
    return ErrorReply(Reason.INTERNAL, "the server could not do this", "Try again later.")


async def answer_refusal(_request: Request, error: Exception) -> Response:
    """Starlette's handler for every `EmberError`."""
    assert isinstance(error, EmberError)
    reply = describe_refusal(error)
    status = STATUS[reply.reason]
    (log.error if status >= 500 else log.info)("%d %s: %s", status, reply.reason, error)
    headers = {} if reply.retry_after_s is None else {"Retry-After": str(max(1, round(reply.retry_after_s)))}
    return Response(reply.encode(), status, headers, media_type="application/json")


async def answer_http_error(_request: Request, error: Exception) -> Response:
    """Starlette's own errors (no such path, wrong method) in the same form."""
    assert isinstance(error, HTTPException)
    known = {404: Reason.NOT_FOUND, 405: Reason.METHOD, 416: Reason.RANGE}
    reason = known.get(error.status_code, Reason.MALFORMED)
    reply = ErrorReply(reason, error.detail or "this cannot be answered", "See docs/protocol.md.")
    return Response(reply.encode(), error.status_code, error.headers, media_type="application/json")


async def answer_fault(_request: Request, _error: Exception) -> Response:
    """A fault of the server's own: nothing of it is told."""
    reply = ErrorReply(Reason.INTERNAL, "the server failed", "Try again later.", 5.0)
    return Response(reply.encode(), 500, {"Retry-After": "5"}, media_type="application/json")


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)[:1000]
