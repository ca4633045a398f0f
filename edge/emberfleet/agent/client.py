"""The device's side of the protocol over HTTP: signed requests, retries, downloads that go on.

Every attempt is signed anew, since a nonce counts once. What may be retried without harm is: all of
it, because an update counts once however often it is sent.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

from emberfleet.agent.identity import MINIMUM_COHORT, Identity, accept_reply, key_of
from emberfleet.agent.lean_httpx import httpx
from emberfleet.agent.pinning import pinned_context
from emberfleet.core.errors import ConfigError, EmberError, FormatError, StorageError
from emberfleet.core.messages import (
    MAX_CHUNK_BYTES,
    MAX_SMALL_BYTES,
    EnrolReply,
    EnrolRequest,
    ErrorReply,
    ModelInfo,
    ModelReport,
    Reason,
    Receipt,
    RefusedError,
    UploadProgress,
    WorkReply,
    device_id_of,
)
from emberfleet.core.requests import sign_request
from emberfleet.core.rotation import KeyChange, KeyChanged
from emberfleet.core.signing import SigningKey
from emberfleet.core.tokens import Token

log = logging.getLogger(__name__)
CONNECT_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 60.0
REPLY_TIMEOUT_S: Final = 120.0
"""For the body of an answer, other than a bundle: whoever drips it cannot hold a device for long."""
MAX_REPLY_BYTES: Final = 4 << 20
EARLIEST_S: Final = 1_767_225_600.0
LATEST_S: Final = 4_102_444_800.0
"""The years 2026 to 2099: a server's time outside them is not believed."""
MAX_ASTRAY: Final = 8
"""How often a server may send an upload back to another offset before it is given up."""
TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504, 507})


class UnreachableError(EmberError):
    """The server did not answer, however often it was tried."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait between tries: doubling, capped, each drawn between half and all of it."""

    attempts: int = 6
    first_s: float = 0.25
    most_s: float = 30.0

    def delay_s(self, attempt: int, generator: random.Random) -> float:
        """The pause after the failed try number `attempt`, counted from 0."""
        longest: float = min(self.most_s, self.first_s * 2 ** min(attempt, 30))
        return longest * (0.5 + 0.5 * generator.random())


@dataclass(slots=True)
class ServerClient:
    """Talks to one server as one device.

    Attributes:
        address: The server's, such as ``http://127.0.0.1:8470``.
        key: Signs every request.
        device_id: The name under which the server knows the key.
        pin: Of the certificate that the server has to show; empty: a certificate authority vouches for it.
    """

    address: str
    key: SigningKey
    device_id: str
    backoff: Backoff = field(default_factory=Backoff)
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    generator: random.Random = field(default_factory=random.Random)
    transport: httpx.BaseTransport | None = None
    pin: str = ""
    _http: httpx.Client = field(init=False)
    _behind_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.address = check_address(self.address)
        timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        self._http = httpx.Client(
            base_url=self.address,
            timeout=timeout,
            transport=self.transport,
            # Reading the certificate store takes long and is of use for https alone.
            verify=pinned_context(self.pin) if self.pin else self.address.startswith("https"),
            follow_redirects=False,
            trust_env=False,
        )

    @classmethod
    def of(cls, identity: Identity) -> ServerClient:
        """The client of an enrolled device."""
        return cls(identity.server, identity.key, identity.device_id, pin=identity.pin)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def enrol(self, secret: str, name: str) -> EnrolReply:
        """Spend a token's secret."""
        body = EnrolRequest(secret, self.key.verify_key.raw, name).encode()
        return EnrolReply.decode(self._ask("POST", "/v1/enrol", body))

    def ask_work(self, model_version: int, wait_s: int = 0) -> WorkReply:
        """Ask for a place in a round; the server may hold the answer back for `wait_s`."""
        return WorkReply.decode(self._ask("GET", f"/v1/work?model={model_version}&wait={wait_s}"))

    def latest(self) -> ModelInfo:
        """Which model is published."""
        return ModelInfo.decode(self._ask("GET", "/v1/models/latest"))

    def metadata(self, name: str, limit: int) -> bytes:
        """A file of the server's TUF repository, of at most `limit` bytes."""
        return self._ask("GET", f"/v1/tuf/{name}", limit=limit)

    def report(self, version: int, report: ModelReport) -> None:
        """Tell how a model did on this device; telling it again does no harm."""
        self._ask("POST", f"/v1/models/{version}/report", report.encode())

    def send_update(self, round_id: str, body: bytes) -> Receipt:
        """Upload an update chunk by chunk, going on where the server stopped hearing.

        Sending the same body again does no harm.

        Raises:
            UnreachableError: The server stopped answering; the next try goes on.
            RefusedError: The update does not count.
        """
        path, digest = f"/v1/rounds/{round_id}/update", hashlib.sha256(body).hexdigest()
        sent, astray, in_doubt = 0, 0, False

        def send_chunk() -> bytes:
            nonlocal sent, in_doubt
            if in_doubt:
                there = UploadProgress.decode(self._send("GET", path, b""))
                sent = min(there.received, len(body)) if there.digest == digest else 0
                in_doubt = False
            target = f"{path}?offset={sent}&size={len(body)}&digest={digest}"
            try:
                return self._send("PUT", target, body[sent : sent + MAX_CHUNK_BYTES])
            except httpx.TransportError:
                in_doubt = True
                raise

        while True:
            try:
                data = self._with_retries(send_chunk)
            except RefusedError as error:
                astray += 1
                if error.received is None or error.received > len(body) or astray > MAX_ASTRAY:
                    raise
                sent = error.received
                continue
            if sent + MAX_CHUNK_BYTES >= len(body):
                return Receipt.decode(data)
            sent = min(UploadProgress.decode(data).received, len(body))

    def send_message(self, round_id: str, name: str, body: bytes) -> None:
        """Send what a secure round asks for next; sending the same body again does no harm."""
        self._ask("POST", f"/v1/rounds/{round_id}/{name}", body)

    def read_message(self, round_id: str, name: str, wait_s: int) -> bytes:
        """What the server says next in a secure round; empty when that has not come within `wait_s`."""
        return self._ask("GET", f"/v1/rounds/{round_id}/{name}?wait={wait_s}")

    def change_key(self, new: SigningKey) -> KeyChanged:
        """Ask to be known by another key; asking again with the same keys does no harm."""
        body = KeyChange.make(self.device_id, new).encode()
        return KeyChanged.decode(self._ask("POST", "/v1/devices/key", body))

    def alive(self, round_id: str) -> None:
        """Say that training goes on."""
        self._ask("POST", f"/v1/rounds/{round_id}/alive")

    def decline(self, round_id: str) -> None:
        """Say that no update will come."""
        self._ask("POST", f"/v1/rounds/{round_id}/decline")

    def download(self, info: ModelInfo, partial: Path) -> bytes:
        """Fetch a bundle, going on where an earlier try stopped.

        Args:
            info: What the bundle must be: its size and digest are checked.
            partial: Where what has come so far is kept; gone after success.

        Raises:
            FormatError: What came is not what was announced; the next try begins anew.
            UnreachableError: The server stopped answering; the next try goes on.
        """
        try:
            if not partial.exists() or partial.stat().st_size > info.size_bytes:
                partial.write_bytes(b"")
            self._with_retries(lambda: self._fetch_rest(info, partial))
            data = partial.read_bytes()
            partial.unlink()
        except OSError as error:
            raise StorageError(f"cannot keep the download at {partial}: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != info.digest:
            raise FormatError(f"bundle {info.version}: its digest is not the one the server announced")
        return data

    def _fetch_rest(self, info: ModelInfo, partial: Path) -> bytes:
        begin = partial.stat().st_size
        if begin == info.size_bytes:
            return b""
        target = f"/v1/models/{info.version}/bundle"
        headers = {"Range": f"bytes={begin}-", "If-Range": f'"{info.digest}"'} if begin else {}
        headers.update(self._signed("GET", target, b""))
        with self._http.stream("GET", target, headers=headers) as response:
            if response.status_code not in (200, 206):
                _raise_refusal(response, _read(response, MAX_SMALL_BYTES))
            if response.status_code == 200:
                begin = 0
            with partial.open("r+b") as file:
                file.truncate(begin)
                file.seek(begin)
                for piece in response.iter_bytes():
                    begin += len(piece)
                    if begin > info.size_bytes:
                        file.truncate(0)
                        raise FormatError(
                            f"bundle {info.version}: more than the {info.size_bytes} bytes announced"
                        )
                    file.write(piece)
        if begin != info.size_bytes:
            raise httpx.ReadError("the download ended early")
        return b""

    def _ask(self, method: str, target: str, body: bytes = b"", limit: int = MAX_REPLY_BYTES) -> bytes:
        return self._with_retries(lambda: self._send(method, target, body, limit))

    def _send(self, method: str, target: str, body: bytes, limit: int = MAX_REPLY_BYTES) -> bytes:
        headers = self._signed(method, target, body)
        with self._http.stream(method, target, content=body or None, headers=headers) as response:
            data = _read(response, limit if response.is_success else MAX_SMALL_BYTES)
        if not 200 <= response.status_code < 300:
            _raise_refusal(response, data)
        return data

    def _signed(self, method: str, target: str, body: bytes) -> dict[str, str]:
        now = self.clock() + self._behind_s
        return sign_request(self.key, self.device_id, method, target, body, now)

    def _with_retries(self, action: Callable[[], bytes]) -> bytes:
        try:
            return self._in_some_tries(action)
        except _ClockError as error:
            # Once per request: a server that is never content with its own time is not believed twice.
            self._behind_s = error.server_time - self.clock()
            log.warning("this device's clock is %.0f s behind the server's", self._behind_s)
            return self._in_some_tries(action)

    def _in_some_tries(self, action: Callable[[], bytes]) -> bytes:
        for attempt in range(self.backoff.attempts):
            wait_s = 0.0
            try:
                return action()
            except httpx.TransportError as error:
                failure: Exception = error
            except _TransientError as error:
                failure, wait_s = error, error.retry_after_s
            if attempt + 1 < self.backoff.attempts:
                delay_s = max(wait_s, self.backoff.delay_s(attempt, self.generator))
                log.info(
                    "%s does not answer (%s), again in %.1f s", self.address, type(failure).__name__, delay_s
                )
                self.sleep(delay_s)
        raise UnreachableError(
            f"{self.address} did not answer in {self.backoff.attempts} tries: "
            "check the network and the address, http or https"
        ) from failure


class _TransientError(Exception):
    def __init__(self, retry_after_s: float) -> None:
        super().__init__()
        self.retry_after_s = retry_after_s


class _ClockError(RefusedError):
    """The server refuses the time that a request was signed at, and says its own."""

    def __init__(self, reply: ErrorReply, server_time: float) -> None:
        super().__init__(reply.reason, reply.error, reply.advice)
        self.server_time = server_time


def enrol_device(
    address: str,
    token: str,
    folder: Path,
    name: str,
    *,
    minimum_cohort: int = MINIMUM_COHORT,
    allow_sealed: bool = False,
) -> Identity:
    """Make a device's key, spend the token, and keep what the server says to trust.

    Args:
        address: The server's.
        token: One-time, from the server's owner.
        folder: The device's.
        name: What people call it.
        minimum_cohort: See `Identity`.
        allow_sealed: See `Identity`.

    Raises:
        RefusedError: The server does not take the token.
        EnrolmentError, PinError: The server is not the one the token was made for.
    """
    check_address(address)
    spent = Token.parse(token)
    key = key_of(folder)
    device_id = device_id_of(key.verify_key.raw)
    client = ServerClient(address, key, device_id, Backoff(attempts=3), pin=spent.pin)
    try:
        identity = accept_reply(client.address, name, spent, key, client.enrol(spent.secret, name))
    finally:
        client.close()
    identity = replace(identity, minimum_cohort=minimum_cohort, allow_sealed=allow_sealed)
    identity.save(folder)
    return identity


def check_address(address: str) -> str:
    """A server's address without a trailing slash.

    Raises:
        ConfigError: Not an http or https address.
    """
    try:
        parts = urlsplit(address)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or parts.query or parts.path not in ("", "/"):
        raise ConfigError(f"'{address}' is not a server's address: expected http(s)://host:port")
    return address.rstrip("/")


def _server_time(response: httpx.Response) -> float | None:
    """Seconds since 1970 by the server's clock; None where it does not say, or nonsense."""
    try:
        found = parsedate_to_datetime(response.headers.get("date", "")).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return found if EARLIEST_S <= found <= LATEST_S else None


def _read(response: httpx.Response, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    begin = time.monotonic()
    for piece in response.iter_bytes():
        size += len(piece)
        if size > limit:
            raise FormatError(f"the server's answer is larger than {limit} bytes")
        if time.monotonic() - begin > REPLY_TIMEOUT_S:
            raise httpx.ReadTimeout(f"the server's answer takes longer than {REPLY_TIMEOUT_S:.0f} s")
        pieces.append(piece)
    return b"".join(pieces)


def _raise_refusal(response: httpx.Response, data: bytes) -> NoReturn:
    status = response.status_code
    try:
        reply = ErrorReply.decode(data)
    except FormatError as error:
        if status in TRANSIENT:
            raise _TransientError(0.0) from error
        raise FormatError(
            f"the server answered {status}, and not as Emberfleet does: check its address"
        ) from error
    if status in TRANSIENT:
        raise _TransientError(reply.retry_after_s or 0.0)
    server_time = _server_time(response)
    if reply.reason is Reason.CLOCK and server_time is not None:
        raise _ClockError(reply, server_time)
    raise RefusedError(
        reply.reason,
        f"{reply.error}. {reply.advice}".strip(),
        reply.advice,
        reply.retry_after_s,
        reply.received,
    )
