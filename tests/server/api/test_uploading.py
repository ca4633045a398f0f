"""Updates in chunks over real HTTP: progress, resuming, and what a device does about lost connections."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from emberfleet.agent.client import Backoff, ServerClient
from emberfleet.core.messages import (
    MAX_CHUNK_BYTES,
    SEAL_INFO,
    Receipt,
    RefusedError,
    UpdateHeader,
    Upload,
    UploadProgress,
    WorkReply,
)
from emberfleet.core.offers import Mode, RoundOffer
from emberfleet.core.requests import sign_request
from emberfleet.core.sealing import seal
from emberfleet.server.rounds.plan import RoundPlan
from tests.fleet import RunningServer, Target, serve

PLAN = RoundPlan(mode=Mode.SEALED, cohort=2, minimum=1, bits=32, deadline_s=300, lease_s=0)
VALUES = 700_000


class Lossy(httpx.HTTPTransport):
    """Loses the connection before or after some requests reach the server."""

    def __init__(self, plan: str) -> None:
        super().__init__()
        self.plan = iter(plan)
        self.sent: list[tuple[str, int]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        what = next(self.plan, ".")
        if what == "<":
            raise httpx.ConnectError("lost before it was sent")
        response = super().handle_request(request)
        self.sent.append((request.method, int(request.headers.get("content-length", 0))))
        if what == ">":
            response.close()
            raise httpx.ReadError("lost before the answer came")
        return response


class Device:
    """An enrolled device in a round of two, with an update of several chunks."""

    def __init__(self, server: RunningServer, folder: Path) -> None:
        agent = server.device(folder, Target(0.0))
        agent.fetch_model()
        agent.close()
        self.identity = agent.identity
        self.address = server.address

    def wait_for_offer(self) -> None:
        reply = WorkReply.decode(self.ask("GET", "/v1/work?model=1&wait=10").content)
        assert reply.offer is not None
        self.offer = RoundOffer.open(reply.offer, self.identity.server_key)
        terms = self.offer.terms
        header = UpdateHeader(terms.round_id, terms.model.version, self.identity.device_id, 5).encode()
        payload = np.zeros(terms.update.size, "<f4").tobytes()
        self.body = Upload.join(header, seal(terms.round_key or b"", payload, SEAL_INFO, header))
        self.target = f"/v1/rounds/{terms.round_id}/update"

    def ask(self, method: str, target: str, body: bytes = b"") -> httpx.Response:
        headers = sign_request(self.identity.key, self.identity.device_id, method, target, body, time.time())
        return httpx.request(method, self.address + target, content=body or None, headers=headers)

    def put(self, begin: int, end: int, **changes: object) -> httpx.Response:
        values = {"size": len(self.body), "digest": hashlib.sha256(self.body).hexdigest(), **changes}
        target = f"{self.target}?offset={begin}&size={values['size']}&digest={values['digest']}"
        return self.ask("PUT", target, self.body[begin:end])

    def client(self, transport: Lossy) -> ServerClient:
        identity = self.identity
        return ServerClient(
            self.address, identity.key, identity.device_id, Backoff(4, 0.001, 0.01), transport=transport
        )


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    model = {"weight": np.zeros(VALUES, np.float32)}
    with serve(tmp_path / "server", PLAN, rounds=2, tensors=model) as server:
        devices = [Device(server, tmp_path / name) for name in ("device", "silent")]
        waiting = [threading.Thread(target=device.wait_for_offer) for device in devices]
        for thread in waiting:
            thread.start()
        for thread in waiting:
            thread.join()
        yield devices[0]


def test_each_chunk_is_answered_by_how_much_is_there_and_the_last_by_the_receipt(device: Device) -> None:
    size, step = len(device.body), MAX_CHUNK_BYTES
    assert UploadProgress.decode(device.ask("GET", device.target).content) == UploadProgress(0, 0, "")
    first = device.put(0, step)
    assert first.status_code == 202
    expected = UploadProgress(step, size, hashlib.sha256(device.body).hexdigest())
    assert UploadProgress.decode(first.content) == expected
    assert UploadProgress.decode(device.ask("GET", device.target).content) == expected
    astray = device.put(2 * step, size)
    assert (astray.status_code, astray.json()["reason"]) == (409, "wrong_offset")
    assert astray.json()["received"] == step
    assert UploadProgress.decode(device.put(0, step).content).received == step
    assert UploadProgress.decode(device.put(step, 2 * step).content).received == 2 * step
    last = device.put(2 * step, size)
    assert last.status_code == 200
    assert Receipt.decode(last.content).accepted == 1


def test_what_cannot_be_a_chunk_is_refused_before_anything_is_written(device: Device) -> None:
    size, digest = len(device.body), hashlib.sha256(device.body).hexdigest()
    limit = size + (1 << 20)
    cases = {
        "larger than the round's updates": (device.put(0, 10, size=limit), 413),
        "chunk beyond the end": (device.put(0, 10, size=5), 400),
        "an empty chunk in the middle": (device.put(0, 0), 400),
        "no digest": (device.put(0, 10, digest="x"), 400),
        "a negative offset": (
            device.ask("PUT", f"{device.target}?offset=-1&size=5&digest={digest}", b"x"),
            400,
        ),
        "no size": (device.ask("PUT", f"{device.target}?offset=0&digest={digest}", b"x"), 400),
        "a chunk too large": (device.put(0, MAX_CHUNK_BYTES + 1), 413),
        "an end that nothing led to": (device.put(size, size), 409),
    }
    for name, (answer, status) in cases.items():
        assert answer.status_code == status, (name, answer.text)
    assert UploadProgress.decode(device.ask("GET", device.target).content).received == 0


def test_a_wrong_digest_drops_what_came(device: Device) -> None:
    step, size = MAX_CHUNK_BYTES, len(device.body)
    for begin in (0, step):
        assert device.put(begin, begin + step, digest="0" * 64).status_code == 202
    answer = device.put(2 * step, size, digest="0" * 64)
    assert (answer.status_code, answer.json()["reason"]) == (400, "wrong_digest")
    assert UploadProgress.decode(device.ask("GET", device.target).content).received == 0


@pytest.mark.parametrize("losses", ["", "<", ">", ".>.>", ".<<.>..>", "..>>"])
def test_a_device_goes_on_after_lost_connections_and_sends_no_chunk_twice(
    device: Device, losses: str
) -> None:
    lossy = Lossy(losses)
    client = device.client(lossy)
    assert client.send_update(device.offer.terms.round_id, device.body).accepted == 1
    client.close()
    bodies = [size for method, size in lossy.sent if method == "PUT"]
    assert sum(bodies) == len(device.body)


def test_a_device_that_was_restarted_goes_on_where_it_stopped(device: Device) -> None:
    device.put(0, MAX_CHUNK_BYTES)
    device.put(MAX_CHUNK_BYTES, 2 * MAX_CHUNK_BYTES)
    lossy = Lossy("")
    client = device.client(lossy)
    assert client.send_update(device.offer.terms.round_id, device.body).accepted == 1
    client.close()
    assert [size for _, size in lossy.sent] == [MAX_CHUNK_BYTES, len(device.body) - 2 * MAX_CHUNK_BYTES]


def test_a_server_that_sends_a_device_back_and_forth_is_given_up(device: Device) -> None:
    class Confused(Lossy):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            received = 7 if "offset=0&" in str(request.url) else 0
            text = f'{{"reason":"wrong_offset","error":"no","advice":"","received":{received}}}'
            return httpx.Response(409, content=text.encode())

    client = device.client(Confused(""))
    with pytest.raises(RefusedError):
        client.send_update(device.offer.terms.round_id, device.body)
    client.close()
