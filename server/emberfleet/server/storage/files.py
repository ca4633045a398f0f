"""The server's folder: keys, published bundles, and the updates of the round at hand.

::

    server.json            settings                     models/000001.ember   published bundles
    server.key             signs offers, mode 600       rounds/ID/DEVICE.update   accepted uploads, as sent
    bundle.key             signs bundles, mode 600      rounds/ID/round.key       opens them, mode 600
    fleet.db               the database                 velocity.safetensors      server momentum
"""

from __future__ import annotations

import shutil
from pathlib import Path

from emberfleet.core.arrays import Tensors
from emberfleet.core.errors import StorageError
from emberfleet.core.files import read_limited, write_atomically, write_private
from emberfleet.core.messages import MAX_BUNDLE_BYTES
from emberfleet.core.tensors import decode_tensors, encode_tensors


class ServerFolder:
    """Paths, and reading and writing them; every name in here is the server's own, never a device's."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.settings = self.root / "server.json"
        self.server_key = self.root / "server.key"
        self.bundle_key = self.root / "bundle.key"
        self.database = self.root / "fleet.db"
        self._velocity = self.root / "velocity.safetensors"

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

    def start_round(self, round_id: str, key: bytes) -> None:
        """Make the folder of a round and keep its private key."""
        folder = self._round(round_id)
        try:
            folder.mkdir()
        except OSError as error:
            raise StorageError(f"cannot make {folder}: {error.strerror}") from error
        write_private(folder / "round.key", key)

    def values(self, round_id: str) -> Path:
        """Where the opened updates of a sealed round lie: `aggregate.stored.UpdateFile`."""
        return self._round(round_id) / "updates.values"

    def end_round(self, round_id: str) -> None:
        """Forget a round's key and updates: nobody can open them from here on."""
        shutil.rmtree(self._round(round_id), ignore_errors=True)

    def unfinished_rounds(self) -> list[str]:
        """Rounds whose folder is still there."""
        return sorted(path.name for path in (self.root / "rounds").iterdir())

    def read_velocity(self) -> Tensors:
        """The server's momentum; empty before the first round."""
        if not self._velocity.exists():
            return {}
        return decode_tensors(read_limited(self._velocity, MAX_BUNDLE_BYTES))

    def write_velocity(self, velocity: Tensors) -> None:
        """Keep the server's momentum."""
        if velocity:
            write_atomically(self._velocity, encode_tensors(velocity))

    def _round(self, round_id: str) -> Path:
        return self.root / "rounds" / round_id
