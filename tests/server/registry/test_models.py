"""What is published, how far it is rolled out, when it is halted, and how an older model comes back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emberfleet.core.errors import ConfigError, RoundError, StorageError
from emberfleet.core.messages import ModelReport, Reason, RefusedError
from emberfleet.core.releases import Release
from emberfleet.core.signing import SigningKey
from emberfleet.server.fleet import Fleet, ServerConfig, init_server
from emberfleet.server.registry.models import ModelRegistry, describe_bundle
from emberfleet.server.registry.policy import ReleasePolicy
from emberfleet.server.registry.publisher import OpenedModel
from emberfleet.server.registry.repository import Repository
from emberfleet.server.releasing import change_policy, open_registry
from emberfleet.server.storage.database import Database
from emberfleet.server.storage.files import ServerFolder
from tests.fleet import make_bundle, open_bundle, small_model

NOW = 1_800_000_000.0
GOOD = ModelReport(0.9, 0.8, 20, kept=True)
BAD = ModelReport(0.5, 0.9, 20, kept=False)
DEVICES = [f"{number:032x}" for number in range(1000)]


@dataclass
class Shop:
    """A server's folder and its registry, without a server."""

    folder: Path
    key: SigningKey
    registry: ModelRegistry
    database: Database

    def opener(self, data: bytes) -> OpenedModel:
        return open_bundle(data, (self.key.verify_key,))

    def publisher(self, current: bytes, tensors: object, version: int) -> bytes:
        assert isinstance(tensors, dict)
        return make_bundle(tensors, version, self.key)

    def publish(self, version: int) -> None:
        self.registry.import_bundle(make_bundle(small_model(float(version)), version, self.key), NOW)

    def listed(self) -> dict[int, int]:
        """Versions and percents as devices see them."""
        return {found.version: found.rollout_percent for found in self.registry.repository.releases()}

    def tell(self, report: ModelReport, *devices: str, version: int = 2) -> None:
        for device in devices:
            self.registry.add_report(version, device, report, NOW)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    folder, key = tmp_path / "server", SigningKey.generate()

    def opener(data: bytes) -> OpenedModel:
        return open_bundle(data, (key.verify_key,))

    init_server(folder, make_bundle(small_model(1.0), 1, key), bundle_key=key, opener=opener, now=NOW)
    with open_registry(folder, opener) as registry:
        database = Database.in_file(ServerFolder(folder).database)
        yield Shop(folder, key, registry, database)
        database.close()


def test_a_new_server_lists_its_first_model_to_everybody(shop: Shop) -> None:
    assert shop.listed() == {1: 100}


def test_a_rollout_reaches_its_share_of_the_devices_and_the_same_ones_when_it_grows(shop: Shop) -> None:
    shop.publish(2)
    reached: set[str] = set()
    for percent in (0, 1, 10, 50, 100):
        shop.registry.set_rollout(2, percent, NOW)
        assert shop.listed() == ({2: 100} if percent == 100 else {1: 100, 2: percent})
        now = {device for device in DEVICES if shop.registry.release_for(device).version == 2}
        assert now >= reached
        assert abs(len(now) / len(DEVICES) - percent / 100) < 0.05
        reached = now
    assert len(reached) == len(DEVICES)


def test_another_version_reaches_other_devices_first() -> None:
    def first(version: int) -> set[str]:
        return {device for device in DEVICES if Release(version, "0" * 64, 1, 10).reaches(device)}

    assert len(first(2) & first(3)) < 0.3 * len(first(2))


def test_devices_outside_the_share_stay_at_the_newest_that_reaches_them(shop: Shop) -> None:
    shop.publish(2)
    shop.publish(3)
    shop.registry.set_rollout(2, 50, NOW)
    shop.registry.set_rollout(3, 10, NOW)
    versions = [shop.registry.release_for(device).version for device in DEVICES]
    assert abs(versions.count(3) - 100) < 40
    assert abs(versions.count(2) - 450) < 60
    assert abs(versions.count(1) - 450) < 60


def test_a_rollout_of_nothing_published_or_of_no_share_is_refused(shop: Shop) -> None:
    with pytest.raises(ConfigError, match="not published"):
        shop.registry.set_rollout(7, 10, NOW)
    with pytest.raises(ConfigError, match="0 to 100"):
        shop.registry.set_rollout(1, 101, NOW)


def test_a_rollback_publishes_the_old_weights_under_a_higher_number(shop: Shop) -> None:
    shop.publish(2)
    info = shop.registry.roll_back(1, shop.publisher, NOW)
    assert info.version == 3
    assert shop.registry.latest() == info
    data, opened = shop.registry.load(info)
    assert describe_bundle(3, data) == info
    for name, value in small_model(1.0).items():
        np.testing.assert_array_equal(opened.tensors[name], value)
    assert shop.listed() == {3: 100}


@pytest.mark.parametrize("version", [2, 9])
def test_only_an_older_version_can_be_rolled_back_to(shop: Shop, version: int) -> None:
    shop.publish(2)
    with pytest.raises(ConfigError, match="not an older version"):
        shop.registry.roll_back(version, shop.publisher, NOW)


def test_a_version_that_another_process_took_is_not_published_twice(shop: Shop) -> None:
    shop.publish(2)

    def meanwhile(current: bytes, tensors: object, version: int) -> bytes:
        shop.publish(version)
        return shop.publisher(current, tensors, version)

    with pytest.raises(RoundError, match="published meanwhile"):
        shop.registry.roll_back(1, meanwhile, NOW)
    _, opened = shop.registry.load(shop.registry.latest())
    assert opened.tensors["conv/bias"][0] == 3.0


def test_a_version_that_most_devices_refuse_is_halted(shop: Shop) -> None:
    shop.publish(2)
    shop.tell(BAD, *DEVICES[:2])
    assert shop.listed() == {2: 100}
    shop.tell(BAD, DEVICES[2])
    assert shop.listed() == {1: 100, 2: 0}
    row = shop.registry.overview()[-1]
    assert (row.release.version, row.reports, row.bad, row.halted) == (2, 3, 3, True)
    assert all(shop.registry.release_for(device).version == 1 for device in DEVICES)


def test_a_version_that_half_of_the_devices_refuse_goes_on(shop: Shop) -> None:
    shop.publish(2)
    shop.tell(GOOD, *DEVICES[2:6])
    shop.tell(BAD, *DEVICES[:2], *DEVICES[6:8])
    assert shop.listed() == {2: 100}
    shop.tell(BAD, DEVICES[8])
    assert shop.listed() == {1: 100, 2: 0}


def test_one_device_counts_once_however_often_it_tells(shop: Shop) -> None:
    shop.publish(2)
    shop.tell(BAD, *[DEVICES[0]] * 10)
    shop.tell(GOOD, DEVICES[0])
    row = shop.registry.overview()[-1]
    assert (row.reports, row.bad, row.halted) == (1, 0, False)


def test_an_owner_who_goes_on_after_a_halt_is_not_overruled(shop: Shop) -> None:
    shop.publish(2)
    shop.tell(BAD, *DEVICES[:3])
    shop.registry.set_rollout(2, 100, NOW)
    shop.tell(BAD, DEVICES[3])
    assert shop.listed() == {2: 100}


def test_a_report_on_what_was_never_published_is_refused(shop: Shop) -> None:
    with pytest.raises(RefusedError) as refused:
        shop.tell(BAD, DEVICES[0], version=8)
    assert refused.value.reason is Reason.NOT_FOUND


def test_a_server_killed_before_it_listed_a_model_lists_it_when_it_starts(shop: Shop) -> None:
    data = make_bundle(small_model(2.0), 2, shop.key)
    ServerFolder(shop.folder).write_bundle(2, data)
    shop.database.add_model(describe_bundle(2, data), NOW)
    assert shop.listed() == {1: 100}
    fleet = Fleet(ServerConfig(shop.folder, shop.publisher, opener=shop.opener, clock=lambda: NOW))
    fleet.close()
    assert shop.listed() == {2: 100}
    assert not shop.registry.bring_in_line(NOW)


@pytest.mark.parametrize("steps", range(6))
def test_a_rollback_killed_at_any_step_has_happened_or_not(
    shop: Shop, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.publish(2)
    left = steps

    def die_after(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def step(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, step)

    with monkeypatch.context():
        die_after(ServerFolder, "write_bundle")
        die_after(Database, "set_rollout")
        die_after(Database, "add_model")
        die_after(shop.registry.repository, "_write")
        with pytest.raises(KeyboardInterrupt):
            shop.registry.roll_back(1, shop.publisher, NOW)
    monkeypatch.undo()
    assert shop.listed() == {2: 100}
    with open_registry(shop.folder, shop.opener) as registry:
        registry.bring_in_line(NOW)
        happened = steps >= 3
        assert shop.listed() == ({3: 100} if happened else {2: 100})
        assert registry.latest().version == 2 + happened
        data, _ = registry.load(registry.latest())
        assert describe_bundle(2 + happened, data) == registry.latest()
        assert registry.roll_back(1, shop.publisher, NOW).version == 3 + happened
    assert shop.listed() == {3 + happened: 100}


def test_a_model_without_a_rollout_of_its_own_has_that_of_the_settings(shop: Shop) -> None:
    change_policy(shop.folder, {"rollout_percent": 20})
    data = make_bundle(small_model(2.0), 2, shop.key)
    ServerFolder(shop.folder).write_bundle(2, data)
    shop.database.add_model(describe_bundle(2, data), NOW)
    with open_registry(shop.folder, shop.opener) as registry:
        registry.bring_in_line(NOW)
    assert shop.listed() == {1: 100, 2: 20}


def test_what_another_process_changed_is_noticed_once(shop: Shop) -> None:
    shop.registry.reload()
    assert not shop.registry.reload()
    with open_registry(shop.folder, shop.opener) as other:
        other.import_bundle(make_bundle(small_model(2.0), 2, shop.key), NOW)
    assert shop.registry.reload()
    assert shop.registry.release_for(DEVICES[0]).version == 2
    assert not shop.registry.reload()


def test_a_list_that_cannot_be_written_does_not_undo_what_was_decided(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.publish(2)

    def full(path: Path, data: bytes) -> None:
        raise StorageError("no space left")

    shop.registry.repository = Repository(shop.folder, ReleasePolicy(), full)
    shop.tell(BAD, *DEVICES[:3])
    assert "no space left" in caplog.text
    assert shop.listed() == {2: 100}
    shop.registry.repository = Repository(shop.folder, ReleasePolicy())
    assert shop.registry.bring_in_line(NOW)
    assert shop.listed() == {1: 100, 2: 0}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rollout_percent", 101),
        ("halt_share", 1.5),
        ("halt_reports", 0),
        ("timestamp_s", 0),
        ("root_s", 1 << 40),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        dataclasses.replace(ReleasePolicy(), **{name: value})  # type: ignore[arg-type]
