"""The models a device has: verified before they are kept, and never older than the newest ever kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from emberfleet.core.codec import Fields, encode_json
from emberfleet.core.errors import FormatError, SignatureError
from emberfleet.core.files import read_limited, write_atomically
from emberfleet.core.messages import MAX_SMALL_BYTES, ModelInfo

STATE_FILE: Final = "model.json"

CheckBundle = Callable[[bytes], int]
"""Verifies a bundle with the keys the device trusts and gives its version; raises what is wrong."""


class RollbackError(SignatureError):
    """A model that is older than one the device had: signed, and refused all the same."""


class ModelStore:
    """One bundle at a time in a device's folder."""

    def __init__(self, folder: Path, check: CheckBundle) -> None:
        self._folder = folder
        self._check = check

    @property
    def partial(self) -> Path:
        """Where a download in progress is kept."""
        return self._folder / "incoming.part"

    def version(self) -> int:
        """The version at hand; 0 before the first."""
        if not (self._folder / STATE_FILE).exists():
            return 0
        fields = Fields.parse(read_limited(self._folder / STATE_FILE, MAX_SMALL_BYTES), STATE_FILE)
        version = fields.integer("version", 1)
        fields.done()
        return version

    def path(self) -> Path | None:
        """The bundle at hand."""
        version = self.version()
        return self._path(version) if version else None

    def refuse_older(self, info: ModelInfo) -> None:
        """Raise `RollbackError` where the server offers less than the device has."""
        if info.version < self.version():
            raise RollbackError(
                f"the server offers model {info.version}, and this device has {self.version()} already: "
                "an older model is never taken"
            )

    def install(self, info: ModelInfo, data: bytes) -> Path:
        """Verify a bundle and make it the one at hand.

        Raises:
            SignatureError: No trusted key has signed it, or it is older than the one at hand.
            FormatError: It is damaged, or says another version than announced.
        """
        self.refuse_older(info)
        version = self._check(data)
        if version != info.version:
            raise FormatError(f"the bundle says version {version}, expected {info.version}")
        before = self.path()
        path = self._path(version)
        write_atomically(path, data)
        write_atomically(self._folder / STATE_FILE, encode_json({"version": version}) + b"\n")
        if before is not None and before != path:
            with contextlib.suppress(OSError):
                before.unlink()
        return path

    def _path(self, version: int) -> Path:
        return self._folder / f"model-{version:06d}.ember"
