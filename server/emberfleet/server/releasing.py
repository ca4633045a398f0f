"""What an owner does with published models, beside a running server or without one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from emberfleet.core.codec import Fields
from emberfleet.core.messages import ModelInfo
from emberfleet.core.releases import EVERYBODY
from emberfleet.core.signing import SigningKey
from emberfleet.server.fleet import Settings, bundle_keys_of
from emberfleet.server.registry.models import ModelRegistry
from emberfleet.server.registry.opening import open_bundle_with, republish_with
from emberfleet.server.registry.policy import ReleasePolicy
from emberfleet.server.registry.publisher import BundleOpener, Publisher
from emberfleet.server.storage.database import Database
from emberfleet.server.storage.files import ServerFolder


@contextmanager
def open_registry(path: Path, opener: BundleOpener | None = None) -> Iterator[ModelRegistry]:
    """The models of a server's folder, until the block ends.

    Raises:
        ConfigError: The folder holds no server.
    """
    folder = ServerFolder(path)
    settings = Settings.load(folder)
    database = Database.in_file(folder.database)
    try:
        keys = bundle_keys_of(folder, settings)
        yield ModelRegistry(database, folder, opener or open_bundle_with(keys), settings.releases)
    finally:
        database.close()


def roll_back(
    path: Path,
    version: int,
    percent: int = EVERYBODY,
    *,
    opener: BundleOpener | None = None,
    publisher: Publisher | None = None,
    clock: Callable[[], float] = time.time,
) -> ModelInfo:
    """Publish an older version's weights as the newest; a running server goes on from there.

    Raises:
        ConfigError: No such older version.
        RoundError: A round has published a model meanwhile: try again.
    """
    folder = ServerFolder(path)
    with open_registry(path, opener) as registry:
        if publisher is None:
            keys = bundle_keys_of(folder, Settings.load(folder))
            publisher = republish_with(SigningKey.load(folder.bundle_key), keys)
        return registry.roll_back(version, publisher, clock(), percent)


def renew_root(
    path: Path, root_key: SigningKey, new_online_keys: bool, clock: Callable[[], float] = time.time
) -> int:
    """Sign the next root and bring the rest in line with it; gives its version.

    Raises:
        ConfigError: Not the root key of this server.
    """
    with open_registry(path) as registry:
        with registry.repository.locked():
            version = registry.repository.renew_root(root_key, clock(), new_online_keys)
        registry.bring_in_line(clock())
        return version


def change_policy(path: Path, changes: Mapping[str, object]) -> ReleasePolicy:
    """Change how models are released; a running server takes it over when it is started again.

    Raises:
        FormatError, ConfigError: A setting that does not exist or cannot be honoured.
    """
    folder = ServerFolder(path)
    settings = Settings.load(folder)
    values = {**settings.releases.to_json(), **changes}
    policy = ReleasePolicy.from_fields(Fields.of(values, "releases"))
    if changes:
        replace(settings, releases=policy).save(folder)
    return policy
