"""The server's folder: keys, published bundles, and the updates of the round at hand.

::

    server.json            settings                     models/000001.ember   published bundles
    server.key             signs offers, mode 600       rounds/ID/DEVICE.update   accepted uploads, as sent
    bundle.key             signs bundles, mode 600      rounds/ID/round.key       opens them, mode 600
    fleet.db               the database                 optimizer/000002.safetensors   its state
    root.key ...           TUF keys, mode 600           tuf/   the TUF repository: registry/repository.py
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from emberfleet.core.arrays import Tensors
from emberfleet.core.errors import StorageError
from emberfleet.core.files import read_limited, storage_errors, write_atomically, write_private
from emberfleet.core.messages import KEY_BYTES, MAX_BUNDLE_BYTES
from emberfleet.core.tensors import decode_tensors, encode_tensors

MAX_OPTIMIZER_BYTES: Final = 4 * MAX_BUNDLE_BYTES


class ServerFolder:
    """Paths, and reading and writing them; every name in here is the server's own, never a device's."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.settings = self.root / "server.json"
        self.server_key = self.root / "server.key"
        self.bundle_key = self.root / "bundle.key"
        self.database = self.root / "fleet.db"

    def check_free(self) -> None:
        """Raise `StorageError` where the folder holds a server already."""
        if self.settings.exists():
            raise StorageError(f"{self.root} holds a server already; choose another folder")

    def make(self) -> None:
        """Make the folder, private to its owner.

        Raises:
            StorageError: It holds a server already, or cannot be made.
        """
        self.check_free()
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in ("models", "rounds"):
                (self.root / name).mkdir(exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {self.root}: {error.strerror}") from error

    def bundle(self, version: int) -> Path:
        """Where the bundle of a version lies."""
        return self.root / "models" / f"{version:06d}.ember"

    def write_bundle(self, version: int, data: bytes) -> None:
        """Keep a published bundle."""
        write_atomically(self.bundle(version), data)

    def read_bundle(self, version: int) -> bytes:
        """A published bundle's bytes."""
        return read_limited(self.bundle(version), MAX_BUNDLE_BYTES)

    def start_round(self, round_id: str, key: bytes | None) -> None:
        """Make the folder of a round and keep its private key, if it has one; again where it is there."""
        folder = self._round(round_id)
        with storage_errors("make", folder):
            folder.mkdir(exist_ok=True)
        if key is not None:
            write_private(folder / "round.key", key)

    def read_round_key(self, round_id: str) -> bytes:
        """The private key of a sealed round."""
        return read_limited(self._round(round_id) / "round.key", KEY_BYTES)

    def upload(self, round_id: str, device_id: str) -> Path:
        """Where a finished upload lies, as it was sent: `storage.uploads`."""
        return self._round(round_id) / f"{device_id}.update"

    def values(self, round_id: str) -> Path:
        """Where the opened updates of a sealed round lie: `aggregate.stored.UpdateFile`."""
        return self._round(round_id) / "updates.values"

    def end_round(self, round_id: str) -> None:
        """Forget a round's key and updates: nobody can open them from here on."""
        shutil.rmtree(self._round(round_id), ignore_errors=True)

    def unfinished_rounds(self) -> list[str]:
        """Rounds whose folder is still there."""
        return sorted(path.name for path in (self.root / "rounds").iterdir())

    def read_optimizer(self, version: int) -> Tensors:
        """The server optimizer's state after the round that made this version; empty where none did."""
        path = self._optimizer(version)
        return decode_tensors(read_limited(path, MAX_OPTIMIZER_BYTES)) if path.exists() else {}

    def write_optimizer(self, version: int, state: Tensors) -> None:
        """Keep the state that goes with a version; before the version is published, so both are there."""
        if state:
            with storage_errors("make", self._optimizer(version).parent):
                self._optimizer(version).parent.mkdir(exist_ok=True)
            write_atomically(self._optimizer(version), encode_tensors(state))

    def forget_optimizers(self, before: int) -> None:
        """Drop the states of older versions."""
        for path in self._optimizer(before).parent.glob("*.safetensors"):
            if path < self._optimizer(before):
                path.unlink(missing_ok=True)

    def _optimizer(self, version: int) -> Path:
        return self.root / "optimizer" / f"{version:06d}.safetensors"

    def _round(self, round_id: str) -> Path:
        return self.root / "rounds" / round_id
