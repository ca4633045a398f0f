"""Uploads as they come in, chunk by chunk: one file per device, whose length is how far it has come.

``parts/DEVICE.SIZE.DIGEST`` grows at its end alone; its name says what the whole is to be, so a server
that was killed goes on from the file itself, whatever it held in memory. A finished upload is flushed
to the disk and then becomes ``DEVICE.update`` beside ``parts`` in one rename. A chunk that does not fit
on the disk leaves the file as long as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Final

from emberfleet.core.files import PRIVATE_MODE, flush_folder, storage_errors
from emberfleet.core.messages import Reason, RefusedError, UploadProgress

_BLOCK_BYTES: Final = 1 << 20


class Uploads:
    """The unfinished and finished uploads below one folder, in a sub-folder per round.

    Calls about the same device must not overlap; calls about different devices may.
    """

    def __init__(self, rounds: Path) -> None:
        self._rounds = rounds

    def path(self, round_id: str, device_id: str) -> Path:
        """Where a finished upload lies."""
        return self._rounds / round_id / f"{device_id}.update"

    def progress(self, round_id: str, device_id: str) -> UploadProgress:
        """How much of a device's upload is there."""
        finished = self.path(round_id, device_id)
        if finished.exists():
            size = finished.stat().st_size
            return UploadProgress(size, size, _digest_of(finished))
        for part in self._parts(round_id, device_id):
            _, size_text, digest = part.name.split(".")
            return UploadProgress(part.stat().st_size, int(size_text), digest)
        return UploadProgress(0, 0, "")

    def write(
        self, round_id: str, device_id: str, size: int, digest: str, offset: int, chunk: bytes
    ) -> UploadProgress:
        """Append a chunk; one that is there already changes nothing.

        Args:
            round_id: A round whose folder exists.
            device_id: Whose upload.
            size: Of the whole upload, checked by the caller.
            digest: SHA-256 of the whole upload.
            offset: Where the chunk begins.
            chunk: Ends within `size`; empty to ask for the end of a complete upload.

        Raises:
            RefusedError: WRONG_OFFSET, with what was received; ALREADY_ACCEPTED: another upload of
                this device is finished; LATE: the round's folder is gone.
            StorageError: The disk is full or broken; what came before is still there.
        """
        part = self._part(round_id, device_id, size, digest)
        with storage_errors("keep an upload in", part.parent):
            if not part.exists():
                finished = self.path(round_id, device_id)
                if finished.exists():
                    if finished.stat().st_size == size and _digest_of(finished) == digest:
                        return UploadProgress(size, size, digest)
                    raise RefusedError(
                        Reason.ALREADY_ACCEPTED,
                        "another update of this device is here already",
                        "Send one update per round.",
                    )
                self._drop_parts(round_id, device_id)
            received = part.stat().st_size if part.exists() else 0
            if chunk and offset + len(chunk) <= received:
                return UploadProgress(received, size, digest)
            if offset != received:
                raise RefusedError(
                    Reason.WRONG_OFFSET,
                    f"the chunk begins at {offset}, and {received} bytes are here",
                    "Go on after the bytes that were received.",
                    received=received,
                )
            _append(part, received, chunk)
        return UploadProgress(received + len(chunk), size, digest)

    def finish(self, round_id: str, device_id: str, size: int, digest: str) -> None:
        """Give a complete upload its final name, on the disk for good; does nothing the second time.

        Raises:
            RefusedError: WRONG_DIGEST: it is not what was announced; nothing of it is kept.
            StorageError: The disk is broken.
        """
        part, finished = self._part(round_id, device_id, size, digest), self.path(round_id, device_id)
        with storage_errors("keep an upload in", part.parent):
            if not part.exists() and finished.exists():
                return
            if _digest_of(part) != digest:
                part.unlink()
                raise RefusedError(
                    Reason.WRONG_DIGEST,
                    "the upload is not the one that was announced: its digest differs",
                    "Send it again from the beginning.",
                    received=0,
                )
            descriptor = os.open(part, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(part, finished)
            flush_folder(finished.parent)

    def drop(self, round_id: str, device_id: str) -> None:
        """Forget a finished upload that was looked at and does not count."""
        self.path(round_id, device_id).unlink(missing_ok=True)

    def _part(self, round_id: str, device_id: str, size: int, digest: str) -> Path:
        return self._rounds / round_id / "parts" / f"{device_id}.{size}.{digest}"

    def _parts(self, round_id: str, device_id: str) -> list[Path]:
        """A device's unfinished uploads; their folder never holds many."""
        return sorted((self._rounds / round_id / "parts").glob(f"{device_id}.*"))

    def _drop_parts(self, round_id: str, device_id: str) -> None:
        for part in self._parts(round_id, device_id):
            part.unlink(missing_ok=True)


def _append(part: Path, received: int, chunk: bytes) -> None:
    """Write a chunk at the end of a file, all of it or nothing."""
    try:
        with contextlib.suppress(FileExistsError):
            part.parent.mkdir(mode=0o700)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(part, flags, PRIVATE_MODE)
    except FileNotFoundError as error:
        raise RefusedError(Reason.LATE, "the round is over", "Ask for work again.") from error
    try:
        rest, place = memoryview(chunk), received
        while rest:
            written = os.pwrite(descriptor, rest, place)
            rest, place = rest[written:], place + written
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, received)
        raise
    finally:
        os.close(descriptor)


def _digest_of(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            found.update(block)
    return found.hexdigest()
