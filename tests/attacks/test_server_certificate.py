"""TLS without an authority: a device speaks to the one server whose key it knows, and to nobody else."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn

from emberfleet.agent.client import Backoff, ServerClient, UnreachableError, enrol_device
from emberfleet.agent.identity import Identity
from emberfleet.core.offers import Mode
from emberfleet.core.signing import SigningKey
from emberfleet.core.tokens import PinError, Token
from emberfleet.server.app import create_app
from emberfleet.server.fleet import ServerConfig, init_server, make_tokens
from emberfleet.server.registry.publisher import OpenedModel
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.serving import make_config
from emberfleet.server.tls import make_certificate, pin_of_file
from tests.fleet import make_bundle, open_bundle, small_model


def new_certificate(path: Path) -> Path:
    path.write_bytes(make_certificate(["localhost"], datetime.datetime.now(datetime.UTC)))
    return path


@contextmanager
def https(folder: Path, certificate: Path) -> Iterator[str]:
    """A real server over TLS, in a thread of its own."""
    key = SigningKey.generate()

    def opener(data: bytes) -> OpenedModel:
        return open_bundle(data, (key.verify_key,))

    plan = RoundPlan(mode=Mode.SEALED, cohort=2, minimum=2)
    init_server(folder, make_bundle(small_model(), 1, key), plan=plan, bundle_key=key, opener=opener)
    application = create_app(ServerConfig(folder, lambda *_: b"", opener=opener))
    config = make_config(application, "127.0.0.1", 0, certificate)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 10
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < end
        time.sleep(0.005)
    try:
        yield f"https://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


class Between(threading.Thread):
    """Somebody in between, with a certificate of his own: takes TLS connections and keeps what he reads."""

    def __init__(self, certificate: Path) -> None:
        super().__init__(daemon=True)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"https://127.0.0.1:{self.listener.getsockname()[1]}"
        self.heard: list[bytes] = []

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    with self.context.wrap_socket(connection, server_side=True) as secured:
                        self.heard.append(secured.recv(65536))
                except OSError:
                    self.heard.append(b"")


@pytest.fixture
def between(tmp_path: Path) -> Iterator[Between]:
    thread = Between(new_certificate(tmp_path / "between.pem"))
    thread.start()
    yield thread
    thread.listener.shutdown(socket.SHUT_RDWR)
    thread.listener.close()
    thread.join(10)


def client_of(address: str, pin: str) -> ServerClient:
    return ServerClient(address, SigningKey.generate(), "d" * 32, Backoff(2, 0.01, 0.01), pin=pin)


def test_a_device_enrols_and_works_over_tls_with_the_pin_of_its_token(tmp_path: Path) -> None:
    certificate = new_certificate(tmp_path / "tls.pem")
    with https(tmp_path / "server", certificate) as address:
        [token] = make_tokens(tmp_path / "server", pin=pin_of_file(certificate))
        identity = enrol_device(address, token, tmp_path / "device", "kitchen", allow_sealed=True)
        assert Identity.load(tmp_path / "device").pin == identity.pin == pin_of_file(certificate)
        client = ServerClient.of(identity)
        assert client.latest().version == 1
        client.close()


def test_somebody_in_between_learns_nothing_at_enrolment(between: Between, tmp_path: Path) -> None:
    token = Token("secret", "0" * 32, pin_of_file(new_certificate(tmp_path / "tls.pem")))
    with pytest.raises(PinError, match="emberfleet device pin"):
        enrol_device(between.address, token.text, tmp_path / "device", "kitchen", allow_sealed=True)
    assert not (tmp_path / "device" / "device.json").exists()
    assert b"".join(between.heard) == b""


def test_every_connection_is_checked_and_not_the_first_alone(between: Between, tmp_path: Path) -> None:
    certificate = new_certificate(tmp_path / "tls.pem")
    with https(tmp_path / "server", certificate) as address:
        [token] = make_tokens(tmp_path / "server", pin=pin_of_file(certificate))
        identity = enrol_device(address, token, tmp_path / "device", "kitchen", allow_sealed=True)
        moved = ServerClient.of(replace(identity, server=between.address))
        for _ in range(2):
            with pytest.raises(PinError):
                moved.latest()
        moved.close()
    assert b"".join(between.heard) == b""


def test_without_a_pin_a_certificate_nobody_vouches_for_is_refused(between: Between) -> None:
    client = client_of(between.address, "")
    with pytest.raises(UnreachableError):
        client.latest()
    client.close()
    assert b"".join(between.heard) == b""
