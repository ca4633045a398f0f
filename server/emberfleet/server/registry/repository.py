"""The server's TUF repository: which models there are, signed so that a device can tell old from new.

::

    root.key targets.key snapshot.key timestamp.key     Ed25519, mode 600; root.key may be kept elsewhere
    tuf/1.root.json        the first root: devices get it when they enrol
    tuf/N.root.json        its successors, each signed by the root key of the one before
    tuf/N.targets.json     the models
    tuf/N.snapshot.json    which targets.json holds
    tuf/timestamp.json     which snapshot.json holds; signed anew while the server runs

Only `timestamp.json` is ever replaced. Targets and snapshot are written under new names first, so until
the timestamp's rename a device finds the old list whole, and after it the new one: a process killed in
between leaves files that nothing refers to, and the next write takes their names.

Nothing here locks: whoever writes holds `locked`, the running server and the command line alike.

Source: The Update Framework specification 1.0.34, sections 4 and 6 (consistent snapshots).
"""

from __future__ import annotations

import contextlib
import fcntl
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from emberfleet.core.errors import ConfigError, FormatError, StorageError
from emberfleet.core.files import read_limited, storage_errors, write_atomically
from emberfleet.core.messages import MAX_ROOT_BYTES
from emberfleet.core.releases import MAX_METADATA_BYTES, Release
from emberfleet.core.repository_keys import RepositoryKey, RepositorySigner, use_repository_keys
from emberfleet.core.signing import SigningKey
from emberfleet.server.registry.policy import ReleasePolicy

ONLINE_ROLES: Final = (Targets.type, Snapshot.type, Timestamp.type)
KEPT_LISTS: Final = 3
"""Lists kept beside the newest: a device in the middle of an update may still ask for one."""
PUBLIC_NAME: Final = re.compile(r"(timestamp|[1-9][0-9]{0,15}\.(root|snapshot|targets))\.json", re.ASCII)
_LIST_NAME: Final = re.compile(r"([1-9][0-9]{0,15})\.(snapshot|targets)\.json", re.ASCII)
_T = TypeVar("_T", Root, Timestamp, Snapshot, Targets)

Write = Callable[[Path, bytes], None]


class Repository:
    """The repository in a server's folder."""

    def __init__(self, root: Path, policy: ReleasePolicy, write: Write = write_atomically) -> None:
        """Open it; nothing is read yet.

        Args:
            root: The server's folder.
            policy: How long what is signed is good for.
            write: Writes a file whole or not at all.
        """
        use_repository_keys()
        self._keys = root
        self._folder = root / "tuf"
        self._policy = policy
        self._write = write

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other writer out, in this process and in others."""
        with storage_errors("lock", self._folder), (self._folder / ".lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def make(self, now: float) -> None:
        """Make the keys and the first root of a new server."""
        with storage_errors("make", self._folder):
            self._folder.mkdir(exist_ok=True)
        for role in (Root.type, *ONLINE_ROLES):
            SigningKey.generate().save(self._key_path(role))
        root = Root(version=1, consistent_snapshot=True)
        for role in (Root.type, *ONLINE_ROLES):
            root.add_key(RepositoryKey.of(SigningKey.load(self._key_path(role)).verify_key), role)
        self._sign_root(root, [SigningKey.load(self._key_path(Root.type))], now)

    def first_root(self) -> bytes:
        """The root that devices get when they enrol, for good: the way to newer ones begins there.

        Raises:
            ConfigError: The folder has no repository.
        """
        path = self._folder / "1.root.json"
        if not path.exists():
            raise ConfigError(
                f"{self._keys} has no TUF repository: make a new server with emberfleet server init"
            )
        return read_limited(path, MAX_ROOT_BYTES)

    def read(self, name: str) -> bytes | None:
        """A file that devices may ask for, or None where there is none."""
        if not PUBLIC_NAME.fullmatch(name):
            return None
        path = self._folder / name
        try:
            with open(path, "rb") as file:
                return file.read(MAX_METADATA_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error

    def stamp(self) -> tuple[int, int]:
        """Changes with every write: a cheap way to notice those of another process."""
        with storage_errors("read", self._folder):
            found = (self._folder / "timestamp.json").stat()
        return found.st_ino, found.st_mtime_ns

    def releases(self) -> tuple[Release, ...]:
        """What the repository lists, oldest first; empty before the first list."""
        timestamp = self._timestamp()
        if timestamp is None:
            return ()
        targets = self._list(self._snapshot(timestamp)).signed.targets
        found = (
            Release.from_target(path, target.length, target.hashes, target.custom)
            for path, target in targets.items()
        )
        return tuple(sorted(found, key=lambda release: release.version))

    def bring_in_line(self, releases: Sequence[Release], now: float) -> bool:
        """List exactly these models, with signatures that last; True where anything had to be written.

        Targets and snapshot are signed anew when half of their time is over, the timestamp after a quarter.
        """
        timestamp = self._timestamp()
        if timestamp is None:
            self._publish(1, 1, 1, releases, now)
            return True
        snapshot = self._snapshot(timestamp)
        targets = self._list(snapshot)
        policy, trusted = self._policy, self.root().signed
        listed = {name: target.to_dict() for name, target in targets.signed.targets.items()}
        if (
            listed != {release.path: _target(release).to_dict() for release in releases}
            or _is_due(targets.signed, policy.targets_s, 0.5, now)
            or _is_due(snapshot.signed, policy.snapshot_s, 0.5, now)
            or not _is_signed(trusted, Targets.type, targets)
            or not _is_signed(trusted, Snapshot.type, snapshot)
        ):
            self._publish_next(releases, now)
            return True
        if _is_due(timestamp.signed, policy.timestamp_s, 0.75, now) or not _is_signed(
            trusted, Timestamp.type, timestamp
        ):
            self._sign_timestamp(timestamp.signed.version + 1, timestamp.signed.snapshot_meta, now)
            return True
        return False

    def renew_root(self, root_key: SigningKey, now: float, new_online_keys: bool = False) -> int:
        """Sign the next root: good for longer and, if wanted, with other keys for the server's own roles.

        Returns:
            Its version. `bring_in_line` then signs the rest with the new keys.

        Raises:
            ConfigError: The key is not the one devices trust for roots.
        """
        trusted = self.root().signed
        if RepositoryKey.of(root_key.verify_key).keyid not in trusted.roles[Root.type].keyids:
            raise ConfigError("this is not the root key of the server: devices would refuse what it signs")
        if new_online_keys:
            for role in ONLINE_ROLES:
                fresh = SigningKey.generate()
                fresh.save(self._next_key_path(role))
                for keyid in list(trusted.roles[role].keyids):
                    trusted.revoke_key(keyid, role)
                trusted.add_key(RepositoryKey.of(fresh.verify_key), role)
            # Signed by old and new keys, so that devices with either root can read it.
            self._publish_next(self.releases(), now)
        trusted.version += 1
        self._sign_root(trusted, [root_key], now)
        return trusted.version

    def root(self) -> Metadata[Root]:
        """The newest root."""
        self.first_root()
        versions = [int(path.name.partition(".")[0]) for path in self._folder.glob("*.root.json")]
        return self._read(f"{max(versions)}.root.json", Root)

    def _publish_next(self, releases: Sequence[Release], now: float) -> None:
        timestamp = self._timestamp()
        assert timestamp is not None
        snapshot = self._snapshot(timestamp)
        targets = self._list(snapshot)
        self._publish(
            targets.signed.version + 1,
            snapshot.signed.version + 1,
            timestamp.signed.version + 1,
            releases,
            now,
        )

    def _publish(
        self, targets: int, snapshot: int, timestamp: int, releases: Sequence[Release], now: float
    ) -> None:
        """Write a new list: what refers to nothing new first, the timestamp last."""
        policy = self._policy
        listed = {release.path: _target(release) for release in releases}
        data = self._sign(Targets(targets, None, _expiry(now, policy.targets_s), listed), Targets.type)
        self._write(self._folder / f"{targets}.targets.json", data)
        meta = {"targets.json": _meta(targets, data)}
        data = self._sign(Snapshot(snapshot, None, _expiry(now, policy.snapshot_s), meta), Snapshot.type)
        self._write(self._folder / f"{snapshot}.snapshot.json", data)
        self._sign_timestamp(timestamp, _meta(snapshot, data), now)
        self._sweep(targets, snapshot)

    def _sign_timestamp(self, version: int, snapshot: MetaFile, now: float) -> None:
        signed = Timestamp(version, None, _expiry(now, self._policy.timestamp_s), snapshot)
        self._write(self._folder / "timestamp.json", self._sign(signed, Timestamp.type))

    def _sign_root(self, root: Root, keys: Sequence[SigningKey], now: float) -> None:
        root.expires = _expiry(now, self._policy.root_s)
        metadata = Metadata(root)
        for key in keys:
            metadata.sign(RepositorySigner(key), append=True)
        data = metadata.to_bytes(JSONSerializer(compact=True))
        if len(data) > MAX_ROOT_BYTES:
            raise StorageError(f"the root is {len(data)} bytes, expected at most {MAX_ROOT_BYTES}")
        self._write(self._folder / f"{root.version}.root.json", data)

    def _sign(self, signed: _T, role: str) -> bytes:
        metadata: Metadata[_T] = Metadata(signed)
        for key in self._signing_keys(role):
            metadata.sign(RepositorySigner(key), append=True)
        data = metadata.to_bytes(JSONSerializer(compact=True))
        if len(data) > MAX_METADATA_BYTES:
            raise StorageError(f"{role}.json is {len(data)} bytes, expected at most {MAX_METADATA_BYTES}")
        return data

    def _signing_keys(self, role: str) -> list[SigningKey]:
        """A role's key, and the one that follows until a root names it and it takes the place."""
        path, following = self._key_path(role), self._next_key_path(role)
        keys = [SigningKey.load(path)]
        if following.exists():
            fresh = SigningKey.load(following)
            if RepositoryKey.of(fresh.verify_key).keyid not in self.root().signed.roles[role].keyids:
                return [*keys, fresh]
            with storage_errors("replace", path):
                following.replace(path)
            keys = [fresh]
        return keys

    def _key_path(self, role: str) -> Path:
        return self._keys / f"{role}.key"

    def _next_key_path(self, role: str) -> Path:
        return self._keys / f"{role}.key.next"

    def _timestamp(self) -> Metadata[Timestamp] | None:
        if not (self._folder / "timestamp.json").exists():
            return None
        return self._read("timestamp.json", Timestamp)

    def _snapshot(self, timestamp: Metadata[Timestamp]) -> Metadata[Snapshot]:
        return self._read(f"{timestamp.signed.snapshot_meta.version}.snapshot.json", Snapshot)

    def _list(self, snapshot: Metadata[Snapshot]) -> Metadata[Targets]:
        return self._read(f"{snapshot.signed.meta['targets.json'].version}.targets.json", Targets)

    def _read(self, name: str, kind: type[_T]) -> Metadata[_T]:
        try:
            found = Metadata[_T].from_bytes(read_limited(self._folder / name, MAX_METADATA_BYTES))
        except RepositoryError as error:
            raise FormatError(f"{self._folder / name}: not TUF metadata") from error
        if not isinstance(found.signed, kind):
            raise FormatError(f"{self._folder / name}: holds {found.signed.type}, expected {kind.__name__}")
        return found

    def _sweep(self, targets: int, snapshot: int) -> None:
        """Remove lists that no device can be in the middle of, and what a killed writer began."""
        newest = {"targets": targets, "snapshot": snapshot}
        for path in self._folder.iterdir():
            match = _LIST_NAME.fullmatch(path.name)
            old = match is not None and int(match[1]) < newest[match[2]] - KEPT_LISTS
            if old or path.name.endswith(".part"):
                with contextlib.suppress(OSError):
                    path.unlink()


def _target(release: Release) -> TargetFile:
    return TargetFile(
        release.size_bytes,
        {"sha256": release.digest},
        release.path,
        {"custom": release.custom()},
    )


def _meta(version: int, data: bytes) -> MetaFile:
    return MetaFile.from_data(version, data, ["sha256"])


def _expiry(now: float, lifetime_s: float) -> datetime:
    return datetime.fromtimestamp(int(now), UTC) + timedelta(seconds=lifetime_s)


def _is_due(signed: Signed, lifetime_s: float, share: float, now: float) -> bool:
    """Whether less than a share of the lifetime is left, or more than all of it (a shorter one was set)."""
    left_s = signed.expires.timestamp() - now
    return not share * lifetime_s <= left_s <= lifetime_s + 1


def _is_signed(root: Root, role: str, metadata: Metadata[_T]) -> bool:
    try:
        root.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except RepositoryError:
        return False
    return True
