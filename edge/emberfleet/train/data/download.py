"""Fetches the standard data sets from their official addresses, each file pinned by size and sha256.

A download is collected in ``NAME.part`` beside its place. A run that is interrupted leaves the part
there, and the next one asks for the rest (HTTP Range). The file takes its name, in one rename, only when
its digest is right. Addresses and redirects must be https.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, cast
from urllib.parse import urlsplit

from emberfleet.core.errors import ConfigError, DataError, StorageError

Progress = Callable[[str, int, int], None]
"""Called with the file's name, the bytes present so far and the bytes in all."""
CHUNK_BYTES = 1 << 16
TIMEOUT_S = 30.0
SECURE = ("https",)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that never changes, and where it can be had.

    Attributes:
        name: What it is called on the disk.
        size_bytes: Its exact size.
        sha256: Its digest, in hexadecimal.
        addresses: Where to ask, in this order; all give the same bytes.
    """

    name: str
    size_bytes: int
    sha256: str
    addresses: tuple[str, ...]


def _at(folders: tuple[str, ...], *files: tuple[str, int, str]) -> tuple[RemoteFile, ...]:
    return tuple(
        RemoteFile(name, size, sha256, tuple(f"{folder}/{name}" for folder in folders))
        for name, size, sha256 in files
    )


REMOTE_FILES = {
    "mnist": _at(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ),
        (
            "train-images-idx3-ubyte.gz",
            9_912_422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            28_881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        (
            "t10k-images-idx3-ubyte.gz",
            1_648_877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            4_542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion-mnist": _at(
        (
            "https://fashion-mnist.s3.eu-central-1.amazonaws.com",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        ),
        (
            "train-images-idx3-ubyte.gz",
            26_421_880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            29_515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        (
            "t10k-images-idx3-ubyte.gz",
            4_422_102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            5_148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    "cifar10": _at(
        ("https://www.cs.toronto.edu/~kriz",),
        (
            "cifar-10-binary.tar.gz",
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    ),
}


def fetch(name: str, root: Path, progress: Progress | None = None) -> list[Path]:
    """Download the files of a standard data set into `root`; those already there are kept.

    Args:
        name: One of `REMOTE_FILES`.
        root: The folder; made when it does not exist.
        progress: Called as bytes arrive.

    Returns:
        The paths, all verified.

    Raises:
        ConfigError: No data set of that name can be downloaded.
        DataError: A download failed or was interrupted (run again to go on), or what came, or what
            lies there, is not the file that was published.
        StorageError: The folder cannot be written.
    """
    if name not in REMOTE_FILES:
        raise ConfigError(f"{name!r} cannot be downloaded, only: {', '.join(REMOTE_FILES)}")
    return [fetch_file(remote, root, progress) for remote in REMOTE_FILES[name]]


def fetch_file(
    remote: RemoteFile, root: Path, progress: Progress | None = None, schemes: tuple[str, ...] = SECURE
) -> Path:
    """Download one file into `root`, from the first of its addresses that delivers it.

    Raises:
        DataError, StorageError: As `fetch`.
    """
    target, part = root / remote.name, root / f"{remote.name}.part"
    report = progress or _silent
    try:
        root.mkdir(parents=True, exist_ok=True)
        if target.exists():
            if _digest(target) != remote.sha256:
                raise DataError(
                    f"{target} is there already and is not the published file; move it away to download it"
                )
            report(remote.name, remote.size_bytes, remote.size_bytes)
            return target
        failures = []
        for address in remote.addresses:
            try:
                _complete(remote, address, part, report, schemes)
                break
            except DataError as error:
                failures.append(str(error))
        else:
            raise DataError("; ".join(failures))
        os.replace(part, target)
    except OSError as error:
        raise StorageError(f"cannot write {part}: {error.strerror or error}") from error
    return target


def _complete(
    remote: RemoteFile, address: str, part: Path, report: Progress, schemes: tuple[str, ...]
) -> None:
    """Bring `part` to its full size and check its digest; a wrong one is removed."""
    reason = ""
    if _size(part) > remote.size_bytes:
        part.unlink()
    if _size(part) < remote.size_bytes:
        try:
            with _open(address, _size(part), schemes) as response:
                _append(response, remote, part, report)
            reason = "the connection ended early"
        except _NetworkError as error:
            reason = str(error)
    if _size(part) < remote.size_bytes:
        raise DataError(
            f"{address}: {reason}; {_size(part)} of {remote.size_bytes} bytes are there, run again to go on"
        )
    found = _digest(part)
    if found != remote.sha256:
        part.unlink()
        raise DataError(
            f"{address}: sha256 {found}, expected {remote.sha256}; not the published file, removed"
        )


def _append(response: http.client.HTTPResponse, remote: RemoteFile, part: Path, report: Progress) -> None:
    """Write the body behind what `part` holds, or from the start when the server sent it all."""
    start = _size(part) if response.status == HTTPStatus.PARTIAL_CONTENT else 0
    if start:
        stated = response.headers.get("Content-Range", "")
        if not stated.startswith(f"bytes {start}-"):
            raise DataError(f"{remote.name}: the server sent {stated!r}, expected bytes from {start}")
    with open(part, "ab" if start else "wb") as stream:
        done = start
        report(remote.name, done, remote.size_bytes)
        while piece := _receive(response):
            done += len(piece)
            if done > remote.size_bytes:
                stream.close()
                part.unlink()
                raise DataError(f"{remote.name}: more than {remote.size_bytes} bytes came; removed")
            stream.write(piece)
            report(remote.name, done, remote.size_bytes)
        stream.flush()
        os.fsync(stream.fileno())


class _NetworkError(Exception):
    """The network or the server failed, as opposed to the disk."""


def _receive(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _NetworkError(str(error)) from error


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, schemes: tuple[str, ...]) -> None:
        self._schemes = schemes

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _check_scheme(newurl, self._schemes)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(address: str, start: int, schemes: tuple[str, ...]) -> http.client.HTTPResponse:
    _check_scheme(address, schemes)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(address, headers=headers)  # noqa: S310 - the scheme is checked above
    opener = urllib.request.build_opener(_SafeRedirects(schemes))
    try:
        return cast("http.client.HTTPResponse", opener.open(request, timeout=TIMEOUT_S))
    except urllib.error.HTTPError as error:
        error.close()
        raise _NetworkError(f"the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _NetworkError(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _NetworkError(str(error)) from error


def _check_scheme(address: str, schemes: tuple[str, ...]) -> None:
    if urlsplit(address).scheme not in schemes:
        raise DataError(f"{address}: refused, expected an address that starts with {schemes[0]}://")


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _silent(name: str, done: int, total: int) -> None:
    pass
