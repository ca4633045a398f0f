"""What a published model is called and says in the server's TUF repository, and which devices take it.

Both sides need it: the server signs a release as a TUF target, a device reads it after `tuf` has checked
the signatures. A rollout reaches the same devices however often they ask, without the server naming any.

Source: The Update Framework specification 1.0.34, section 4.5 (targets, `custom`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from emberfleet.core.codec import Fields
from emberfleet.core.errors import FormatError
from emberfleet.core.messages import MAX_BUNDLE_BYTES, ModelInfo

MAX_RELEASES: Final = 64
"""Most releases in one list: what every device fetches stays below 32 KiB."""
MAX_METADATA_BYTES: Final = 256 * 1024
EVERYBODY: Final = 100


@dataclass(frozen=True, slots=True)
class Release:
    """A published model as the list of targets has it.

    Attributes:
        version: Counts upwards; also in the bundle's own signed manifest.
        digest: SHA-256 of the bundle.
        size_bytes: Its exact length.
        rollout_percent: Share of the fleet's devices that take it, 0 to 100.
        from_round: Number of the round that made it; 0 where no round did.
    """

    version: int
    digest: str
    size_bytes: int
    rollout_percent: int = EVERYBODY
    from_round: int = 0

    @property
    def path(self) -> str:
        """Its name in the list."""
        return f"models/{self.version:06d}.ember"

    @property
    def info(self) -> ModelInfo:
        """What a download is checked against."""
        return ModelInfo(self.version, self.digest, self.size_bytes)

    def custom(self) -> dict[str, Any]:
        """What the target says beside length and digest."""
        return {
            "version": self.version,
            "rollout_percent": self.rollout_percent,
            "from_round": self.from_round,
        }

    @classmethod
    def from_target(cls, path: str, length: int, hashes: Mapping[str, str], custom: object) -> Self:
        """Read a target.

        Raises:
            FormatError: Not a release: another name, a field missing or out of its range.
        """
        fields = Fields.of(custom, f"target {path[:40]!r}")
        digest = Fields.of(dict(hashes), f"target {path[:40]!r}").digest("sha256")
        found = cls(
            version=fields.integer("version", 1),
            digest=digest,
            size_bytes=length,
            rollout_percent=fields.integer("rollout_percent", 0, EVERYBODY),
            from_round=fields.integer("from_round"),
        )
        fields.done()
        if path != found.path:
            raise FormatError(f"target {path[:40]!r}: says version {found.version}, expected {found.path}")
        if not 1 <= length <= MAX_BUNDLE_BYTES:
            raise FormatError(f"{path}: {length} bytes, expected 1 to {MAX_BUNDLE_BYTES}")
        return found

    def reaches(self, device_id: str) -> bool:
        """Whether a device is in the share that takes this version.

        ``SHA-256(device id | version)``, first four bytes as a big-endian number, over 2^32: uniform over
        devices, and drawn anew for each version, so that nobody is always first.
        """
        draw = hashlib.sha256(f"{device_id}|{self.version}".encode()).digest()[:4]
        return int.from_bytes(draw, "big") * 100 < self.rollout_percent << 32


def newest_for(releases: Iterable[Release], device_id: str) -> Release | None:
    """The newest release that reaches a device, or None."""
    return max(
        (release for release in releases if release.reaches(device_id)),
        key=lambda release: release.version,
        default=None,
    )


def shortened(releases: Iterable[Release]) -> tuple[Release, ...]:
    """The releases that a device may still need, oldest first.

    Everything up from the newest that reaches everybody, and of that the newest `MAX_RELEASES`: nobody
    takes what is older than a release for everybody.
    """
    kept: list[Release] = []
    for release in sorted(releases, key=lambda release: release.version, reverse=True):
        if len(kept) == MAX_RELEASES - 1 and release.rollout_percent < EVERYBODY:
            continue
        kept.append(release)
        if release.rollout_percent == EVERYBODY:
            break
    return tuple(reversed(kept))
