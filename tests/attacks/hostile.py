"""A device that says exactly what a test wants it to say, and what the server must answer it."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from emberfleet.agent.identity import Identity
from emberfleet.core.messages import SEAL_INFO, EnrolRequest, UpdateHeader, Upload, WorkReply, device_id_of
from emberfleet.core.offers import RoundOffer
from emberfleet.core.requests import sign_request
from emberfleet.core.sealing import seal
from emberfleet.core.signing import SigningKey
from emberfleet.core.tokens import Token
from tests.fleet import RunningServer, Target


@dataclass
class Caller:
    """A device that says exactly what a test wants it to say."""

    address: str
    identity: Identity
    offer: RoundOffer | None = None

    def headers(self, method: str, target: str, body: bytes = b"", **changes: Any) -> dict[str, str]:
        values = {
            "now": time.time(),
            "device_id": self.identity.device_id,
            "key": self.identity.key,
            **changes,
        }
        return sign_request(values["key"], values["device_id"], method, target, body, values["now"])

    def ask(self, method: str, target: str, body: bytes = b"", **changes: Any) -> httpx.Response:
        headers = self.headers(method, target, body, **changes)
        return httpx.request(method, self.address + target, content=body or None, headers=headers)

    def put(self, body: bytes, **changes: Any) -> httpx.Response:
        """Send an update in one chunk."""
        digest = hashlib.sha256(body).hexdigest()
        return self.ask("PUT", f"{self.target}?offset=0&size={len(body)}&digest={digest}", body, **changes)

    @property
    def target(self) -> str:
        assert self.offer is not None
        return f"/v1/rounds/{self.offer.terms.round_id}/update"

    def body(
        self, payload: bytes | None = None, header: UpdateHeader | None = None, key: bytes = b""
    ) -> bytes:
        assert self.offer is not None
        offer = self.offer
        written = (header or self.header()).encode()
        content = bytes(offer.terms.update.size_bytes) if payload is None else payload
        return Upload.join(written, seal(key or offer.terms.round_key or b"", content, SEAL_INFO, written))

    def framed(self, header: bytes) -> bytes:
        """An upload with any bytes as its header, sealed under them."""
        assert self.offer is not None
        content = bytes(self.offer.terms.update.size_bytes)
        return Upload.join(header, seal(self.offer.terms.round_key or b"", content, SEAL_INFO, header))

    def header(self) -> UpdateHeader:
        assert self.offer is not None
        return UpdateHeader(
            self.offer.terms.round_id, self.offer.terms.model.version, self.identity.device_id, 5
        )

    def floats(self, value: float) -> bytes:
        assert self.offer is not None
        values = np.zeros(self.offer.terms.update.size, "<f4")
        values[3] = value
        return values.tobytes()


def caller(server: RunningServer, folder: Path, wait: int) -> Caller:
    agent = server.device(folder, Target(0.0))
    agent.fetch_model()
    agent.close()
    made = Caller(server.address, agent.identity)
    reply = WorkReply.decode(made.ask("GET", f"/v1/work?model=1&wait={wait}").content)
    if reply.offer is not None:
        made.offer = RoundOffer.open(reply.offer, agent.identity.server_key)
    return made


def check(response: httpx.Response, status: int, reason: str) -> None:
    fields = response.json()
    assert (response.status_code, fields["reason"]) == (status, reason), fields
    assert fields["error"]
    assert fields["advice"]


def enrol(
    server: RunningServer, token: str, key: SigningKey, signer: SigningKey | None = None
) -> httpx.Response:
    body = EnrolRequest(Token.parse(token).secret, key.verify_key.raw, "test").encode()
    device_id = device_id_of(key.verify_key.raw)
    headers = sign_request(signer or key, device_id, "POST", "/v1/enrol", body, time.time())
    return httpx.post(server.address + "/v1/enrol", content=body, headers=headers)


def held_kib(pid: int | str = "self") -> int:
    """How much memory a process holds."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
