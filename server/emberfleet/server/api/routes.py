"""The routes: each admits the request, asks the rest of the server, and encodes the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from emberfleet.core.messages import (
    MAX_SMALL_BYTES,
    EnrolReply,
    EnrolRequest,
    ModelReport,
    Reason,
    RefusedError,
    check_version,
    device_id_of,
)
from emberfleet.core.requests import check_body
from emberfleet.core.rotation import KeyChange, KeyChanged
from emberfleet.core.signing import VerifyKey
from emberfleet.server.api.admission import shut_out
from emberfleet.server.api.bodies import BodyBudget, read_body, read_signed_body
from emberfleet.server.api.rounds import hanging_up, make_round_routes, wait_of
from emberfleet.server.api.uploading import Uploading
from emberfleet.server.dashboard.status import describe_status, render_status
from emberfleet.server.storage.database import Device

if TYPE_CHECKING:
    from emberfleet.server.fleet import Fleet

STRANGERS_BYTES: Final = 4 << 20


def make_routes(fleet: Fleet) -> list[Route]:
    """All routes of the server, over one fleet."""
    strangers = BodyBudget(STRANGERS_BYTES)
    uploading = Uploading(fleet)

    async def enrol(request: Request) -> Response:
        async with read_body(request, MAX_SMALL_BYTES, strangers) as body:
            wish = EnrolRequest.decode(body)
            device_id = device_id_of(wish.public_key)
            head = fleet.admission.admit_stranger(request, device_id, VerifyKey(wish.public_key))
            check_body(head, body)
        now = fleet.clock()
        device = Device(device_id, wish.public_key, wish.name, now, None)
        fleet.database.enrol(wish.token, device, now)
        reply = EnrolReply(device_id, fleet.server_key.verify_key.raw, fleet.bundle_keys, fleet.first_root)
        return _json(reply.encode())

    async def change_key(request: Request) -> Response:
        head = fleet.admission.admit(request, replaced=True)
        async with read_signed_body(request, head, MAX_SMALL_BYTES, fleet.bodies) as body:
            change = KeyChange.decode(body)
        change.verify(head.device_id)
        fleet.coordinator.check_free(head.device_id)
        if not fleet.database.replace_key(head.device_id, change.device_id, change.public_key, fleet.clock()):
            raise shut_out()
        return _json(KeyChanged(change.device_id).encode())

    async def work(request: Request) -> Response:
        head = fleet.admission.admit(request)
        version = check_version(request.query_params.get("model", "0"))
        async with hanging_up(request) as gone:
            reply = await fleet.coordinator.wait_for_work(head.device_id, version, wait_of(request), gone)
        fleet.admission.check_welcome(head.device_id)
        return _json(reply.encode())

    async def latest(request: Request) -> Response:
        fleet.admission.admit(request)
        return _json(fleet.coordinator.model.encode())

    async def bundle(request: Request) -> Response:
        fleet.admission.admit(request)
        found = fleet.registry.path(check_version(request.path_params["version"]))
        if found is None:
            raise RefusedError(
                Reason.NOT_FOUND, "no such version of the model", "Ask which one is published."
            )
        info, path = found
        headers = {"ETag": f'"{info.digest}"', "Cache-Control": "private, immutable"}
        return FileResponse(path, headers=headers, media_type="application/vnd.emberfleet.bundle")

    async def repository(request: Request) -> Response:
        fleet.admission.admit(request)
        found = fleet.registry.repository.read(request.path_params["name"])
        if found is None:
            raise RefusedError(Reason.NOT_FOUND, "no such metadata", "Begin with the timestamp.")
        return _json(found)

    async def report(request: Request) -> Response:
        head = fleet.admission.admit(request)
        version = check_version(request.path_params["version"])
        async with read_body(request, MAX_SMALL_BYTES, fleet.bodies) as body:
            check_body(head, body)
            told = ModelReport.decode(body)
        fleet.registry.add_report(version, head.device_id, told, fleet.clock())
        return Response(status_code=204)

    async def status(_request: Request) -> Response:
        return _json(describe_status(fleet))

    async def page(_request: Request) -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        headers = {"Content-Security-Policy": policy, "Refresh": "5"}
        return Response(render_status(fleet), headers=headers, media_type="text/html")

    return [
        Route("/", page),
        Route("/v1/status", status),
        Route("/v1/enrol", enrol, methods=["POST"]),
        Route("/v1/devices/key", change_key, methods=["POST"]),
        Route("/v1/work", work),
        Route("/v1/models/latest", latest),
        Route("/v1/models/{version}/bundle", bundle),
        Route("/v1/models/{version}/report", report, methods=["POST"]),
        Route("/v1/tuf/{name}", repository),
        Route("/v1/rounds/{round_id}/update", uploading.progress, methods=["GET"]),
        Route("/v1/rounds/{round_id}/update", uploading.take, methods=["PUT"]),
        *make_round_routes(fleet),
    ]


def _json(data: bytes) -> Response:
    return Response(data, media_type="application/json")
