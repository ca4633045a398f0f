"""Downloads, against a real server on the loopback that can be told to misbehave."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from emberfleet.core.errors import ConfigError, DataError, StorageError
from emberfleet.train.data.download import REMOTE_FILES, RemoteFile, fetch, fetch_file

DATA = bytes(range(256)) * 1200
DIGEST = hashlib.sha256(DATA).hexdigest()
LOOPBACK = ("http",)
UNPACKED_MNIST = {
    "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


@dataclass
class Behaviour:
    """What the server does; tests change it between requests."""

    data: bytes = DATA
    honours_range: bool = True
    stop_after: int | None = None
    status: int | None = None
    location: str | None = None
    shift_range: int = 0
    requests: list[str | None] = field(default_factory=list)


@dataclass
class Server:
    behaviour: Behaviour
    address: str

    def remote(self, **changes: object) -> RemoteFile:
        values = {"name": "file.gz", "size_bytes": len(DATA), "sha256": DIGEST}
        addresses = changes.pop("addresses", (f"{self.address}/file.gz",))
        return RemoteFile(**(values | changes), addresses=addresses)  # type: ignore[arg-type]


@pytest.fixture
def server() -> Iterator[Server]:
    behaviour = Behaviour()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["Range"]
            behaviour.requests.append(wanted)
            if behaviour.status or self.path == "/missing":
                self.send_response(behaviour.status or 404)
                if behaviour.location:
                    self.send_header("Location", behaviour.location)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = 0
            if wanted and behaviour.honours_range:
                start = int(wanted.removeprefix("bytes=").removesuffix("-")) + behaviour.shift_range
                self.send_response(206)
                end = len(behaviour.data)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
            else:
                self.send_response(200)
            body = behaviour.data[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: behaviour.stop_after])

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name the base class gives it
            pass

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Server(behaviour, f"http://127.0.0.1:{http_server.server_port}")
    http_server.shutdown()
    thread.join()
    http_server.server_close()


def test_a_file_arrives_with_progress(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    path = fetch_file(
        server.remote(),
        tmp_path / "new",
        lambda name, done, total: seen.append((name, done, total)),
        LOOPBACK,
    )
    assert path.read_bytes() == DATA
    assert [entry.name for entry in path.parent.iterdir()] == ["file.gz"]
    assert seen[0] == ("file.gz", 0, len(DATA))
    assert seen[-1] == ("file.gz", len(DATA), len(DATA))
    assert [done for _, done, _ in seen] == sorted({done for _, done, _ in seen})


def test_an_interrupted_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.behaviour.stop_after = 100_000
    with pytest.raises(DataError, match=f"100000 of {len(DATA)} bytes are there, run again"):
        fetch_file(server.remote(), tmp_path, None, LOOPBACK)
    assert not (tmp_path / "file.gz").exists()
    server.behaviour.stop_after = None
    seen: list[int] = []
    path = fetch_file(server.remote(), tmp_path, lambda name, done, total: seen.append(done), LOOPBACK)
    assert path.read_bytes() == DATA
    assert server.behaviour.requests == [None, "bytes=100000-"]
    assert seen[0] == 100_000
    assert not (tmp_path / "file.gz.part").exists()


def test_a_server_that_ignores_ranges_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.gz.part").write_bytes(DATA[:5000])
    server.behaviour.honours_range = False
    assert fetch_file(server.remote(), tmp_path, None, LOOPBACK).read_bytes() == DATA
    assert server.behaviour.requests == ["bytes=5000-"]


def test_a_server_that_sends_another_range_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.gz.part").write_bytes(DATA[:5000])
    server.behaviour.shift_range = 10
    with pytest.raises(DataError, match="expected bytes from 5000"):
        fetch_file(server.remote(), tmp_path, None, LOOPBACK)


def test_a_finished_part_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.gz.part").write_bytes(DATA)
    assert fetch_file(server.remote(), tmp_path, None, LOOPBACK).read_bytes() == DATA
    assert server.behaviour.requests == []


def test_a_wrong_digest_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    server.behaviour.data = DATA[:-1] + b"x"
    with pytest.raises(DataError, match=f"expected {DIGEST}; not the published file"):
        fetch_file(server.remote(), tmp_path, None, LOOPBACK)
    assert list(tmp_path.iterdir()) == []


def test_a_spoilt_part_is_replaced_from_the_next_address(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.gz.part").write_bytes(b"?" * 5000)
    addresses = (f"{server.address}/one", f"{server.address}/two")
    path = fetch_file(server.remote(addresses=addresses), tmp_path, None, LOOPBACK)
    assert path.read_bytes() == DATA
    assert server.behaviour.requests == ["bytes=5000-", None]


def test_more_bytes_than_stated_are_refused(server: Server, tmp_path: Path) -> None:
    server.behaviour.data = DATA + bytes(1 << 20)
    with pytest.raises(DataError, match=f"more than {len(DATA)} bytes"):
        fetch_file(server.remote(), tmp_path, None, LOOPBACK)
    assert list(tmp_path.iterdir()) == []


def test_the_second_address_is_asked_when_the_first_fails(server: Server, tmp_path: Path) -> None:
    addresses = (f"{server.address}/missing", "http://127.0.0.1:9/refused", f"{server.address}/file.gz")
    assert fetch_file(server.remote(addresses=addresses), tmp_path, None, LOOPBACK).read_bytes() == DATA


def test_every_failed_address_is_named(server: Server, tmp_path: Path) -> None:
    addresses = (f"{server.address}/missing", "http://127.0.0.1:9/refused")
    with pytest.raises(DataError, match=r"missing: the server answered 404.*refused: .*[Rr]efused"):
        fetch_file(server.remote(addresses=addresses), tmp_path, None, LOOPBACK)


def test_addresses_other_than_https_are_refused_unasked(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="starts with https://"):
        fetch_file(server.remote(), tmp_path)
    with pytest.raises(DataError, match="starts with https://"):
        fetch_file(server.remote(addresses=("file:///etc/passwd",)), tmp_path)
    assert server.behaviour.requests == []


def test_a_redirect_to_another_scheme_is_refused(server: Server, tmp_path: Path) -> None:
    server.behaviour.status, server.behaviour.location = 302, "ftp://127.0.0.1/file.gz"
    with pytest.raises(DataError, match=r"ftp://127.0.0.1/file.gz: refused"):
        fetch_file(server.remote(), tmp_path, None, LOOPBACK)


def test_a_file_that_is_there_is_kept_or_reported(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.gz").write_bytes(DATA)
    assert fetch_file(server.remote(), tmp_path, None, LOOPBACK).read_bytes() == DATA
    (tmp_path / "file.gz").write_bytes(b"my own file")
    with pytest.raises(DataError, match="is there already and is not the published file"):
        fetch_file(server.remote(), tmp_path, None, LOOPBACK)
    assert (tmp_path / "file.gz").read_bytes() == b"my own file"
    assert server.behaviour.requests == []


def test_a_folder_that_cannot_be_made_is_a_storage_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write"):
        fetch_file(server.remote(), tmp_path / "file" / "folder", None, LOOPBACK)


def test_only_standard_sets_can_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only: mnist, fashion-mnist, cifar10"):
        fetch("handwriting", tmp_path)


def test_every_pinned_file_has_a_digest_and_secure_addresses() -> None:
    for remote in (remote for files in REMOTE_FILES.values() for remote in files):
        assert len(bytes.fromhex(remote.sha256)) == 32
        assert remote.addresses
        assert all(address.startswith("https://") for address in remote.addresses)
        assert all(address.endswith(f"/{remote.name}") for address in remote.addresses)


def test_the_published_fashion_mnist_is_recognised(shared_data: Path) -> None:
    found = fetch("fashion-mnist", shared_data / "fashion-mnist")
    assert [path.stat().st_size for path in found] == [r.size_bytes for r in REMOTE_FILES["fashion-mnist"]]


def test_mnist_at_hand_holds_what_the_published_files_unpack_to(shared_data: Path) -> None:
    for name, digest in UNPACKED_MNIST.items():
        data = gzip.decompress((shared_data / "mnist" / name).read_bytes())
        assert hashlib.sha256(data).hexdigest() == digest
