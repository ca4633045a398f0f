"""Which models the server has published, as far as a device may believe it.

`tuf` does the checking: signatures from the root that the device got at enrolment onwards, versions that
never go back, lists that belong together, and times that have not run out. What it fetches comes through
the agent's own signed requests, never larger than the limits here.

Source: The Update Framework specification 1.0.34, section 5 (detailed client workflow).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from emberfleet.core.errors import FormatError, SignatureError
from emberfleet.core.files import read_limited, storage_errors
from emberfleet.core.messages import MAX_ROOT_BYTES, Reason, RefusedError
from emberfleet.core.releases import MAX_METADATA_BYTES, Release, newest_for

if TYPE_CHECKING:
    from tuf.ngclient import FetcherInterface

log = logging.getLogger(__name__)
CHECK_EVERY_S: Final = 3600.0
MAX_TIMESTAMP_BYTES: Final = 4 * 1024
MAX_NEW_ROOTS: Final = 64

FetchMetadata = Callable[[str, int], bytes]
"""Fetches a metadata file by its name, of at most so many bytes; raises what the client raises."""


class RollbackError(SignatureError):
    """What the server shows is older than what the device has seen: signed, and refused all the same."""


class FrozenError(SignatureError):
    """The newest list the server shows has run out: nobody can tell whether a newer one is held back."""


class ReleaseList:
    """The releases a device knows of."""

    def __init__(
        self,
        folder: Path,
        root: bytes,
        device_id: str,
        fetch: FetchMetadata,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare to ask.

        Args:
            folder: Where what was verified is kept, so that it cannot go back; made on first use.
            root: The metadata of the first root, from enrolment.
            device_id: Decides which rollouts reach this device.
            fetch: Brings metadata from the server.
            clock: Seconds since 1970, for when to ask again; `tuf` looks at the system's own for expiry.
        """
        self._folder, self._root, self._device_id = folder, root, device_id
        self._fetch, self._clock = fetch, clock
        self._due_at = 0.0

    def is_due(self) -> bool:
        """Whether it is time to look for a fresh timestamp, hint or no hint."""
        return self._clock() >= self._due_at

    def refresh(self) -> Release | None:
        """Bring the list up to date; gives the newest release that reaches this device.

        Raises:
            FrozenError: What the server shows has run out.
            RollbackError: It is older than what this device has seen.
            SignatureError: Otherwise not what the trusted root has signed.
            FormatError: Signed, and yet not a list of releases; or larger than allowed.
            UnreachableError, RefusedError: From the client.
        """
        from tuf.api.exceptions import (
            BadVersionNumberError,
            DownloadError,
            ExpiredMetadataError,
            RepositoryError,
        )

        try:
            with storage_errors("keep the list of models in", self._folder):
                self._folder.mkdir(mode=0o700, exist_ok=True)
                releases, expires_at = self._update()
        except ExpiredMetadataError as error:
            raise FrozenError(
                "the server's list of models has run out, and it shows no newer one: check this device's "
                "clock; if it is right, the server was not running, or somebody holds this device back"
            ) from error
        except BadVersionNumberError as error:
            raise RollbackError(
                f"the server shows an older list of models than this device has seen ({error})"
            ) from error
        except RepositoryError as error:
            raise SignatureError(
                f"the list of models is not what the server's root signed: {error}"
            ) from error
        except DownloadError as error:
            raise SignatureError(f"the list of models is not complete: {error}") from error
        now = self._clock()
        self._due_at = max(now, min(now + CHECK_EVERY_S, expires_at))
        return newest_for(releases, self._device_id)

    def _update(self) -> tuple[list[Release], float]:
        """Let `tuf` update, then read what it verified."""
        from tuf.api.metadata import Metadata, Targets, Timestamp
        from tuf.ngclient import Updater, UpdaterConfig

        from emberfleet.core.repository_keys import use_repository_keys

        use_repository_keys()
        config = UpdaterConfig(
            max_root_rotations=MAX_NEW_ROOTS,
            root_max_length=MAX_ROOT_BYTES,
            timestamp_max_length=MAX_TIMESTAMP_BYTES,
            snapshot_max_length=MAX_METADATA_BYTES,
            targets_max_length=MAX_METADATA_BYTES,
            prefix_targets_with_hash=False,
        )
        updater = Updater(
            str(self._folder), "", fetcher=_fetcher(self._fetch), config=config, bootstrap=self._root
        )
        updater.refresh()
        # The updater tells of a target by its name alone; the names stand in the file it has just verified.
        listed = Metadata[Targets].from_bytes(read_limited(self._folder / "targets.json", MAX_METADATA_BYTES))
        releases = []
        for path in listed.signed.targets:
            target = updater.get_targetinfo(path)
            if target is None:
                raise FormatError(f"the list of models does not have {path[:40]!r} any more")
            releases.append(Release.from_target(path, target.length, target.hashes, target.custom))
        timestamp = Metadata[Timestamp].from_bytes(
            read_limited(self._folder / "timestamp.json", MAX_TIMESTAMP_BYTES)
        )
        return releases, timestamp.signed.expires.timestamp()


def _fetcher(fetch: FetchMetadata) -> FetcherInterface:
    """The agent's client behind the interface that `tuf` asks through."""
    from tuf.api.exceptions import DownloadHTTPError
    from tuf.ngclient import FetcherInterface

    class Fetcher(FetcherInterface):
        def download_bytes(self, url: str, max_length: int) -> bytes:
            try:
                return fetch(url.lstrip("/"), min(max_length, MAX_METADATA_BYTES))
            except RefusedError as error:
                if error.reason is Reason.NOT_FOUND:
                    raise DownloadHTTPError(f"the server has no {url}", 404) from error
                raise

        def _fetch(self, url: str) -> Iterator[bytes]:
            return iter([self.download_bytes(url, MAX_METADATA_BYTES)])

    return Fetcher()
