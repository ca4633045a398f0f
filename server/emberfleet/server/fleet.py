"""One server put together: settings, keys, storage, registry and rounds."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from emberfleet.core.codec import Fields, encode_json
from emberfleet.core.errors import ConfigError
from emberfleet.core.files import read_limited, write_atomically
from emberfleet.core.messages import MAX_SMALL_BYTES, MAX_TRUSTED_KEYS, ModelInfo, fingerprint_of
from emberfleet.core.signing import SigningKey, VerifyKey
from emberfleet.core.tokens import Token
from emberfleet.server.api.admission import Admission
from emberfleet.server.api.bodies import BodyBudget
from emberfleet.server.registry.models import ModelRegistry
from emberfleet.server.registry.opening import open_bundle_with, republish_with
from emberfleet.server.registry.policy import ReleasePolicy
from emberfleet.server.registry.publisher import BundleOpener, Evaluator, Publisher
from emberfleet.server.registry.repository import Repository
from emberfleet.server.rounds.coordinator import Coordinator
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.storage.database import Database
from emberfleet.server.storage.files import ServerFolder
from emberfleet.server.storage.uploads import Uploads

TOKEN_LIFETIME_S: Final = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What a server is started with.

    Attributes:
        folder: Made by `init_server`.
        plan: Of every round; the folder's own when None.
        rounds: Finished rounds after which no more are opened; 0 for no end.
        publisher: Makes the next bundle from the mean; None: the runtime, signing with the folder's key.
        evaluator: Measures each new bundle, when given.
        opener: Verifies bundles; the real one when None.
    """

    folder: Path
    publisher: Publisher | None = None
    plan: RoundPlan | None = None
    rounds: int = 0
    evaluator: Evaluator | None = None
    opener: BundleOpener | None = None
    clock: Callable[[], float] = field(default=time.time)


@dataclass(frozen=True, slots=True)
class Settings:
    """What `server.json` holds: the plan, how models are released, and whose bundles devices trust too."""

    plan: RoundPlan = field(default_factory=RoundPlan)
    trusted: tuple[str, ...] = ()
    releases: ReleasePolicy = field(default_factory=ReleasePolicy)

    def save(self, folder: ServerFolder) -> None:
        """Write `server.json`."""
        values = {
            "plan": self.plan.to_json(),
            "trusted": list(self.trusted),
            "releases": self.releases.to_json(),
        }
        write_atomically(folder.settings, encode_json(values) + b"\n")

    @classmethod
    def load(cls, folder: ServerFolder) -> Settings:
        """Read `server.json`.

        Raises:
            ConfigError: The folder holds no server.
        """
        if not folder.settings.exists():
            raise ConfigError(f"{folder.root} holds no server: make one with emberfleet server init")
        fields = Fields.parse(read_limited(folder.settings, MAX_SMALL_BYTES * 64), "server.json")
        plan = RoundPlan.from_fields(fields.nested("plan", "server.json's plan"))
        trusted = fields.items("trusted", MAX_TRUSTED_KEYS - 1)
        releases = ReleasePolicy.from_fields(fields.nested("releases", "server.json's releases"))
        fields.done()
        if not all(isinstance(key, str) for key in trusted):
            raise fields.wrong("trusted", "a list of public keys in base64")
        return cls(plan, tuple(VerifyKey.from_text(key).text for key in trusted), releases)


class Fleet:
    """The parts of one running server; `close` gives its database back."""

    def __init__(self, config: ServerConfig) -> None:
        folder = ServerFolder(config.folder)
        settings = Settings.load(folder)
        self.clock = config.clock
        self.server_key = SigningKey.load(folder.server_key)
        bundle_key = SigningKey.load(folder.bundle_key)
        self.bundle_keys = bundle_keys_of(folder, settings)
        self.database = Database.in_file(folder.database)
        opener = config.opener or open_bundle_with(self.bundle_keys)
        self.releases = settings.releases
        self.registry = ModelRegistry(self.database, folder, opener, settings.releases)
        self.first_root = self.registry.repository.first_root()
        self.registry.bring_in_line(config.clock())
        self.admission = Admission(self.database, config.clock)
        self.bodies = BodyBudget()
        self.uploads = Uploads(folder.root / "rounds")
        self.coordinator = Coordinator(
            database=self.database,
            folder=folder,
            registry=self.registry,
            publisher=config.publisher or republish_with(bundle_key, self.bundle_keys),
            key=self.server_key,
            plan=config.plan or settings.plan,
            clock=config.clock,
            rounds=config.rounds,
            evaluator=config.evaluator,
        )

    def close(self) -> None:
        """Give the database back."""
        self.database.close()


def bundle_keys_of(folder: ServerFolder, settings: Settings) -> tuple[bytes, ...]:
    """Keys whose bundles the fleet's devices trust: the server's own first."""
    own = SigningKey.load(folder.bundle_key).verify_key
    return (own.raw, *(VerifyKey.from_text(text).raw for text in settings.trusted))


def init_server(
    path: Path,
    bundle: bytes,
    trusted: tuple[VerifyKey, ...] = (),
    plan: RoundPlan | None = None,
    bundle_key: SigningKey | None = None,
    opener: BundleOpener | None = None,
    now: float | None = None,
    releases: ReleasePolicy | None = None,
) -> ModelInfo:
    """Make a server's folder: its keys, its database, its first model.

    Args:
        path: The new folder.
        bundle: The first model, signed by `bundle_key` or one of `trusted`.
        trusted: Whose bundles devices accept beside the server's own, such as the trainer's.
        plan: Of every round.
        bundle_key: Signs what the server publishes; made when not given.
        opener: Verifies the bundle; the real one when None.
        now: Seconds since 1970.
        releases: How models are released.

    Raises:
        StorageError: The folder holds a server already.
        SignatureError: The bundle is signed by none of these keys.
    """
    folder = ServerFolder(path)
    folder.check_free()
    own = bundle_key or SigningKey.generate()
    others = tuple(key for key in trusted if key != own.verify_key)
    keys = (own.verify_key.raw, *(key.raw for key in others))
    check = opener or open_bundle_with(keys)
    check(bundle)
    folder.make()
    SigningKey.generate().save(folder.server_key)
    own.save(folder.bundle_key)
    started_at = time.time() if now is None else now
    policy = releases or ReleasePolicy()
    Repository(folder.root, policy).make(started_at)
    database = Database.in_file(folder.database)
    try:
        info = ModelRegistry(database, folder, check, policy).import_bundle(bundle, started_at)
    finally:
        database.close()
    texts = tuple(key.text for key in others)
    Settings(plan or RoundPlan(), texts, policy).save(folder)
    return info


def make_tokens(
    path: Path,
    count: int = 1,
    lifetime_s: float = TOKEN_LIFETIME_S,
    now: float | None = None,
    pin: str = "",
) -> list[str]:
    """Make one-time enrolment tokens (`core/tokens.py`); only a hash of the secret part is kept.

    Args:
        path: The server's folder.
        count: How many.
        lifetime_s: Until they expire.
        now: Seconds since 1970.
        pin: Of the certificate that devices are to accept; empty: a certificate authority vouches for it.
    """
    if not 1 <= count <= 100_000:
        raise ConfigError(f"{count} tokens, expected 1 to 100000")
    folder = ServerFolder(path)
    settings = Settings.load(folder)
    server_key = SigningKey.load(folder.server_key).verify_key.raw
    root = Repository(folder.root, settings.releases).first_root()
    fingerprint = fingerprint_of(server_key, bundle_keys_of(folder, settings), root)
    database = Database.in_file(folder.database)
    try:
        made = []
        for _ in range(count):
            secret = secrets.token_urlsafe(16)
            database.add_token(secret, time.time() if now is None else now, lifetime_s)
            made.append(Token(secret, fingerprint, pin).text)
        return made
    finally:
        database.close()


def change_plan(path: Path, changes: Mapping[str, object]) -> RoundPlan:
    """Change settings of a server's plan and write them down; settings of the training are merged.

    Raises:
        FormatError, ConfigError: A setting that does not exist or cannot be honoured.
    """
    folder = ServerFolder(path)
    settings = Settings.load(folder)
    values = {**settings.plan.to_json(), **changes}
    training = changes.get("training")
    if isinstance(training, dict):
        values["training"] = {**settings.plan.training, **training}
    plan = RoundPlan.from_fields(Fields.of(values, "round plan"))
    replace(settings, plan=plan).save(folder)
    return plan
