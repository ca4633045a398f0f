"""Built programs kept on disk: PoCL parses a source for 30 ms even when it has the kernels in its own cache.

One file per program in the user's cache folder, named by everything the result depends on. A file
holds a SHA-256 of the rest and is ignored, then replaced, when that does not fit: a driver that is
given a damaged binary may end the process. Like PoCL's own cache, it trusts who may write there.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from emberfleet.core.errors import StorageError
from emberfleet.core.files import write_atomically

DIGEST_BYTES = 32
MAX_BYTES = 1 << 26

_log = logging.getLogger(__name__)


def folder() -> Path:
    """Where binaries are kept: ``emberfleet/opencl`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "emberfleet" / "opencl"


def key(*parts: str) -> str:
    """A file name for all that a binary depends on."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def load(name: str) -> bytes | None:
    """The binary kept under a key; None where there is none or it is damaged."""
    path = folder() / name
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        content = path.read_bytes()
    except OSError:
        return None
    digest, binary = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if not binary or hashlib.sha256(binary).digest() != digest:
        _log.warning("ignoring a damaged kernel binary: %s", path)
        return None
    return binary


def save(name: str, binary: bytes) -> None:
    """Keep a binary under a key; a folder that cannot be written to is no error, only slower."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
        write_atomically(folder() / name, hashlib.sha256(binary).digest() + binary, 0o600)
    except (OSError, StorageError) as error:
        _log.info("kernel binaries are not kept: %s", error)
