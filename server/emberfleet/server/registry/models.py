"""The published versions of the model: stored, counted upwards, opened before anybody is offered them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from emberfleet.core.errors import ConfigError, RoundError
from emberfleet.core.messages import ModelInfo
from emberfleet.server.registry.publisher import BundleOpener, OpenedModel
from emberfleet.server.storage.database import Database, RoundRow
from emberfleet.server.storage.files import ServerFolder


def describe_bundle(version: int, data: bytes) -> ModelInfo:
    """What devices are told of a bundle."""
    return ModelInfo(version, hashlib.sha256(data).hexdigest(), len(data))


class ModelRegistry:
    """The models of one server."""

    def __init__(self, database: Database, folder: ServerFolder, opener: BundleOpener) -> None:
        self._database = database
        self._folder = folder
        self._opener = opener

    def import_first(self, data: bytes, now: float) -> ModelInfo:
        """Publish a bundle that did not come from a round.

        Raises:
            ConfigError: Not newer than what is published.
        """
        opened = self._opener(data)
        latest = self._database.latest_model()
        if latest is not None and opened.version <= latest.version:
            raise ConfigError(
                f"the bundle is version {opened.version} and version {latest.version} is published already; "
                "a new model needs a higher version"
            )
        info = describe_bundle(opened.version, data)
        self._folder.write_bundle(opened.version, data)
        self._database.add_model(info, now)
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
        """Store the model that a round made, and the round's end with it."""
        self._folder.write_bundle(info.version, data)
        self._database.save_publication(row, info, now)
