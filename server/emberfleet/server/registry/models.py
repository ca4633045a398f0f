"""The published versions of the model: stored, counted upwards, opened before anybody is offered them.

The database says what is published; the TUF repository says it to devices, and is brought in line with
the database after every change, when the server starts and while it runs. Whoever publishes holds the
repository's lock, so the running server and the command line never take the same version.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from emberfleet.core.errors import ConfigError, RoundError, StorageError
from emberfleet.core.messages import ModelInfo, ModelReport, Reason, RefusedError
from emberfleet.core.releases import EVERYBODY, MAX_RELEASES, Release, newest_for, shortened
from emberfleet.server.registry.policy import ReleasePolicy
from emberfleet.server.registry.publisher import BundleOpener, OpenedModel, Publisher
from emberfleet.server.registry.repository import Repository
from emberfleet.server.storage.database import Database, RoundRow
from emberfleet.server.storage.files import ServerFolder
from emberfleet.server.storage.releases import ReleaseRow

log = logging.getLogger(__name__)


def describe_bundle(version: int, data: bytes) -> ModelInfo:
    """What devices are told of a bundle."""
    return ModelInfo(version, hashlib.sha256(data).hexdigest(), len(data))


class ModelRegistry:
    """The models of one server."""

    def __init__(
        self,
        database: Database,
        folder: ServerFolder,
        opener: BundleOpener,
        policy: ReleasePolicy,
    ) -> None:
        """Prepare to answer.

        Args:
            database: Where models, rollouts and reports are written down.
            folder: Where bundles and the repository lie.
            opener: Verifies bundles.
            policy: How models are released.
        """
        self._database, self._folder, self._opener, self._policy = database, folder, opener, policy
        self.repository = Repository(folder.root, policy)
        self._releases: tuple[Release, ...] = ()
        self._seen: object = None
        self.behind = False
        """Whether something was published that the list does not have, because it could not be written."""

    def import_bundle(self, data: bytes, now: float, percent: int = EVERYBODY) -> ModelInfo:
        """Publish a bundle that did not come from a round.

        Args:
            data: The bundle, signed by a key that devices trust.
            now: Seconds since 1970.
            percent: Share of the devices that take it.

        Raises:
            SignatureError, FormatError: Devices would refuse it.
            ConfigError: Not newer than what is published.
        """
        opened = self._opener(data)
        with self.repository.locked():
            latest = self._database.latest_model()
            if latest is not None and opened.version <= latest.version:
                raise ConfigError(
                    f"the bundle is version {opened.version} and version {latest.version} is published "
                    "already; a new model needs a higher version"
                )
            info = describe_bundle(opened.version, data)
            self._folder.write_bundle(opened.version, data)
            self._database.set_rollout(info.version, percent, now)
            self._database.add_model(info, now)
            self._bring_in_line(now)
        return info

    def latest(self) -> ModelInfo:
        """The published model.

        Raises:
            ConfigError: None was imported.
        """
        found = self._database.latest_model()
        if found is None:
            raise ConfigError("this server has no model yet: import a bundle with emberfleet server init")
        return found

    def load(self, info: ModelInfo) -> tuple[bytes, OpenedModel]:
        """A published bundle and what is inside."""
        data = self._folder.read_bundle(info.version)
        return data, self._opener(data)

    def path(self, version: int) -> tuple[ModelInfo, Path] | None:
        """Where a published bundle lies, or None for a version that is not."""
        info = self._database.model(version)
        return None if info is None else (info, self._folder.bundle(version))

    def check(self, data: bytes, version: int) -> tuple[ModelInfo, OpenedModel]:
        """Open what a publisher made before anybody is offered it.

        Raises:
            RoundError: It says another version than asked for.
        """
        opened = self._opener(data)
        if opened.version != version:
            raise RoundError(f"publish: the new bundle says version {opened.version}, expected {version}")
        return describe_bundle(version, data), opened

    def add(self, info: ModelInfo, data: bytes, row: RoundRow, now: float) -> None:
        """Store the model that a round made, and the round's end with it, then list it.

        Raises:
            RoundError: The command line has published a model meanwhile.
        """
        with self.repository.locked():
            self._refuse_taken(info.version)
            self._folder.write_bundle(info.version, data)
            self._database.set_rollout(info.version, self._policy.rollout_percent, now)
            self._database.save_publication(row, info, now)
            self._list(now)

    def set_rollout(self, version: int, percent: int, now: float) -> None:
        """Let a version reach another share of the devices; those that have it keep it.

        Raises:
            ConfigError: No such version, or no share.
        """
        if not 0 <= percent <= EVERYBODY:
            raise ConfigError(f"{percent} percent, expected 0 to {EVERYBODY}")
        with self.repository.locked():
            if self._database.model(version) is None:
                raise ConfigError(f"version {version} is not published: see emberfleet server models")
            self._database.set_rollout(version, percent, now)
            self._bring_in_line(now)

    def roll_back(
        self, version: int, publisher: Publisher, now: float, percent: int = EVERYBODY
    ) -> ModelInfo:
        """Publish the weights of an older version under a new, higher number.

        Raises:
            ConfigError: No such version, or it is the newest already.
            RoundError: Another model was published meanwhile.
        """
        source, latest = self._database.model(version), self.latest()
        if source is None or version == latest.version:
            raise ConfigError(
                f"version {version} is not an older version: see emberfleet server models; "
                f"the newest is {latest.version}"
            )
        old, opened = self.load(source)
        data = publisher(old, opened.tensors, latest.version + 1)
        info, _ = self.check(data, latest.version + 1)
        with self.repository.locked():
            self._refuse_taken(info.version)
            self._folder.write_bundle(info.version, data)
            self._database.set_rollout(info.version, percent, now)
            self._database.add_model(info, now)
            self._bring_in_line(now)
        return info

    def add_report(self, version: int, device_id: str, report: ModelReport, now: float) -> None:
        """Keep how a version did on a device; halt its rollout when too many devices went back.

        A version is halted once. Whoever sets its rollout again afterwards has seen the reports.

        Raises:
            RefusedError: NOT_FOUND for a version that is not published.
        """
        if self._database.model(version) is None:
            raise RefusedError(
                Reason.NOT_FOUND, "no such version of the model", "Report on a model that was published."
            )
        self._database.add_report(version, device_id, report, now)
        row = self._database.release(version, self._policy.rollout_percent)
        assert row is not None
        too_many = row.bad > self._policy.halt_share * row.reports
        if row.reports >= self._policy.halt_reports and too_many and not row.halted:
            with self.repository.locked():
                self._database.set_rollout(version, 0, now, halted=True)
                self._list(now)
            log.error("model %d is halted: %d of %d devices went back", version, row.bad, row.reports)

    def overview(self, last: int = 1000) -> list[ReleaseRow]:
        """The newest models with rollout and reports, oldest of them first."""
        return self._database.releases(self._policy.rollout_percent, last)

    def release_for(self, device_id: str) -> ModelInfo:
        """The newest model that reaches a device; where none does, the published one."""
        found = newest_for(self._releases, device_id)
        return self.latest() if found is None else found.info

    def reload(self) -> bool:
        """Notice what was published or changed, by this process or another; True where something was."""
        stamp = self.repository.stamp()
        if stamp == self._seen:
            return False
        self._seen = stamp
        before, self._releases = self._releases, self._wanted()
        return before != self._releases

    def bring_in_line(self, now: float) -> bool:
        """List what the database says, with signatures that last; True where anything was written."""
        with self.repository.locked():
            return self._bring_in_line(now)

    def _bring_in_line(self, now: float) -> bool:
        wanted = self._wanted()
        written = self.repository.bring_in_line(wanted, now)
        self._releases, self.behind = wanted, False
        return written

    def _list(self, now: float) -> None:
        """As `_bring_in_line`, after something that cannot be undone: what fails is tried again later."""
        self.behind = True
        try:
            self._bring_in_line(now)
        except StorageError as error:
            log.error("the list of models could not be written, and will be: %s", error)

    def _wanted(self) -> tuple[Release, ...]:
        rows = self.overview(last=16 * MAX_RELEASES)
        return shortened(row.release for row in rows)

    def _refuse_taken(self, version: int) -> None:
        latest = self._database.latest_model()
        if latest is not None and latest.version >= version:
            raise RoundError(f"publish: version {latest.version} was published meanwhile, expected none")
