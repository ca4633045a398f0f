"""The server's TUF repository: what devices can read of it, at any instant, for how long."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from emberfleet.agent.releases import FrozenError, ReleaseList
from emberfleet.core.errors import ConfigError, SignatureError
from emberfleet.core.files import write_atomically
from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.releases import MAX_RELEASES, Release, shortened
from emberfleet.core.signing import SigningKey
from emberfleet.server.registry.policy import ReleasePolicy
from emberfleet.server.registry.repository import KEPT_LISTS, Repository

DEVICE = "c" * 32


def release(version: int, percent: int = 100) -> Release:
    return Release(version, f"{version:064x}", 1000 + version, percent)


@dataclass
class Reader:
    """A device's list, fetching from the repository's folder."""

    folder: Path
    repository: Repository
    asked: list[str] = field(default_factory=list)

    def fetch(self, name: str, limit: int) -> bytes:
        self.asked.append(name)
        found = self.repository.read(name)
        if found is None:
            raise RefusedError(Reason.NOT_FOUND, "none")
        assert len(found) <= limit
        return found

    def versions(self) -> list[int]:
        """What a device that updates now has listed, oldest first."""
        newest = ReleaseList(self.folder, self.repository.first_root(), DEVICE, self.fetch).refresh()
        assert newest is not None
        targets = json.loads((self.folder / "targets.json").read_bytes())["signed"]["targets"]
        assert newest.path in targets
        return sorted(target["custom"]["version"] for target in targets.values())


def made(folder: Path, policy: ReleasePolicy | None = None) -> Repository:
    repository = Repository(folder, policy or ReleasePolicy())
    repository.make(time.time())
    return repository


def reader(folder: Path, repository: Repository, name: str = "device") -> Reader:
    (folder / name).mkdir()
    return Reader(folder / name, repository)


def test_keys_are_their_owners_alone_and_differ_by_role(tmp_path: Path) -> None:
    made(tmp_path)
    paths = [tmp_path / f"{role}.key" for role in ("root", "targets", "snapshot", "timestamp")]
    assert [path.stat().st_mode & 0o777 for path in paths] == [0o600] * 4
    assert len({SigningKey.load(path).verify_key for path in paths}) == 4


def test_a_device_reads_what_was_published(tmp_path: Path) -> None:
    repository = made(tmp_path)
    assert repository.releases() == ()
    assert repository.bring_in_line([release(1)], time.time())
    device = reader(tmp_path, repository)
    assert device.versions() == [1]
    assert repository.bring_in_line([release(1), release(2, 10)], time.time())
    assert device.versions() == [1, 2]
    assert repository.releases() == (release(1), release(2, 10))


def test_bringing_in_line_again_writes_nothing(tmp_path: Path) -> None:
    repository = made(tmp_path)
    now = time.time()
    assert repository.bring_in_line([release(1)], now)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "tuf").iterdir()}
    assert not repository.bring_in_line([release(1)], now + 60)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "tuf").iterdir()} == before


def test_the_root_key_is_needed_for_roots_alone(tmp_path: Path) -> None:
    repository = made(tmp_path)
    (tmp_path / "root.key").unlink()
    repository.bring_in_line([release(1)], time.time())
    repository.bring_in_line([release(1), release(2)], time.time())
    assert reader(tmp_path, repository).versions() == [1, 2]


def test_only_public_files_are_read(tmp_path: Path) -> None:
    repository = made(tmp_path)
    repository.bring_in_line([release(1)], time.time())
    assert repository.read("timestamp.json") is not None
    assert repository.read("1.root.json") is not None
    for name in (".lock", "../root.key", "root.json", "0.root.json", "9.root.json", "1.root.json\n", "x"):
        assert repository.read(name) is None


@pytest.mark.parametrize("writes_before", [0, 1, 2])
def test_a_list_half_written_is_the_old_one_and_the_next_write_mends_it(
    tmp_path: Path, writes_before: int
) -> None:
    made(tmp_path).bring_in_line([release(1)], time.time())
    left = writes_before

    def die_after(path: Path, data: bytes) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        write_atomically(path, data)

    with pytest.raises(KeyboardInterrupt):
        Repository(tmp_path, ReleasePolicy(), die_after).bring_in_line([release(2)], time.time())
    mended = Repository(tmp_path, ReleasePolicy())
    assert reader(tmp_path, mended, "before").versions() == [1]
    assert mended.bring_in_line([release(2)], time.time())
    assert reader(tmp_path, mended, "after").versions() == [2]


PUBLISH_FOR_EVER = """
import sys, time
from pathlib import Path
from emberfleet.core.releases import Release
from emberfleet.server.registry.policy import ReleasePolicy
from emberfleet.server.registry.repository import Repository
repository = Repository(Path(sys.argv[1]), ReleasePolicy())
version = repository.releases()[-1].version
while True:
    version += 1
    with repository.locked():
        repository.bring_in_line([Release(version, f"{version:064x}", 1000 + version)], time.time())
    print("published", flush=True)
"""


def test_a_publisher_killed_at_any_instant_leaves_a_list_that_devices_can_read(tmp_path: Path) -> None:
    repository = made(tmp_path)
    repository.bring_in_line([release(1)], time.time())
    device = reader(tmp_path, repository)
    generator = random.Random(5)
    newest = 1
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", PUBLISH_FOR_EVER, str(tmp_path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        with process:
            assert process.stdout is not None
            for _ in range(generator.randint(1, 3)):
                assert process.stdout.readline() == b"published\n"
            time.sleep(generator.random() * 0.03)
            process.send_signal(signal.SIGKILL)
        with repository.locked():
            pass
        (found,) = device.versions()
        assert found >= newest
        assert repository.releases() == (release(found),)
        newest = found
    assert newest > 6


def test_old_lists_are_swept_and_those_a_device_may_be_reading_stay(tmp_path: Path) -> None:
    repository = made(tmp_path)
    for version in range(1, 9):
        repository.bring_in_line([release(version)], time.time())
    for role in ("targets", "snapshot"):
        names = sorted(path.name for path in (tmp_path / "tuf").glob(f"*.{role}.json"))
        assert names == [f"{number}.{role}.json" for number in range(8 - KEPT_LISTS, 9)]


@pytest.mark.parametrize(
    ("later_s", "written"),
    [
        (0.2 * 86400, set()),
        (0.3 * 86400, {"timestamp.json"}),
        (16 * 86400, {"2.targets.json", "2.snapshot.json"}),
    ],
)
def test_signatures_are_made_anew_before_they_run_out(
    tmp_path: Path, later_s: float, written: set[str]
) -> None:
    repository = made(tmp_path)
    now = time.time()
    repository.bring_in_line([release(1)], now)
    before = (tmp_path / "tuf" / "timestamp.json").read_bytes()
    files = {path.name for path in (tmp_path / "tuf").iterdir()}
    assert repository.bring_in_line([release(1)], now + later_s) == bool(written)
    changed = {"timestamp.json"} if (tmp_path / "tuf" / "timestamp.json").read_bytes() != before else set()
    assert ({path.name for path in (tmp_path / "tuf").iterdir()} - files | changed) >= written
    assert bool(changed) == bool(written)


def test_a_shorter_lifetime_counts_at_once(tmp_path: Path) -> None:
    now = time.time()
    made(tmp_path).bring_in_line([release(1)], now)
    shorter = Repository(tmp_path, ReleasePolicy(timestamp_s=60))
    assert shorter.bring_in_line([release(1)], now)
    assert not shorter.bring_in_line([release(1)], now)


def test_a_list_signed_long_ago_has_run_out(tmp_path: Path) -> None:
    repository = made(tmp_path)
    device = reader(tmp_path, repository)
    repository.bring_in_line([release(1)], time.time() - 2 * 86400)
    with pytest.raises(FrozenError, match="run out"):
        device.versions()
    repository.bring_in_line([release(1)], time.time())
    assert device.versions() == [1]


def test_a_renewed_root_with_new_keys_is_followed_by_old_and_new_devices(tmp_path: Path) -> None:
    repository = made(tmp_path)
    now = time.time()
    repository.bring_in_line([release(1)], now)
    old = reader(tmp_path, repository, "old")
    assert old.versions() == [1]
    keys = {role: (tmp_path / f"{role}.key").read_bytes() for role in ("targets", "snapshot", "timestamp")}
    assert repository.renew_root(SigningKey.load(tmp_path / "root.key"), now, new_online_keys=True) == 2
    assert old.versions() == [1]
    repository.bring_in_line([release(2)], now)
    assert old.versions() == [2]
    assert reader(tmp_path, repository, "new").versions() == [2]
    assert all((tmp_path / f"{role}.key").read_bytes() != before for role, before in keys.items())
    assert not list(tmp_path.glob("*.next"))


@pytest.mark.parametrize("writes_before", range(4))
def test_a_root_renewal_that_is_killed_leaves_a_repository_that_devices_can_read(
    tmp_path: Path, writes_before: int
) -> None:
    made(tmp_path).bring_in_line([release(1)], time.time())
    old = reader(tmp_path, Repository(tmp_path, ReleasePolicy()), "old")
    assert old.versions() == [1]
    left = writes_before

    def die_after(path: Path, data: bytes) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        write_atomically(path, data)

    with pytest.raises(KeyboardInterrupt):
        Repository(tmp_path, ReleasePolicy(), die_after).renew_root(
            SigningKey.load(tmp_path / "root.key"), time.time(), new_online_keys=True
        )
    assert old.versions() == [1]
    Repository(tmp_path, ReleasePolicy()).bring_in_line([release(2)], time.time())
    assert old.versions() == [2]


def test_a_list_signed_with_revoked_keys_is_refused(tmp_path: Path) -> None:
    repository = made(tmp_path)
    now = time.time()
    repository.bring_in_line([release(1)], now)
    stolen = {role: (tmp_path / f"{role}.key").read_bytes() for role in ("targets", "snapshot", "timestamp")}
    repository.renew_root(SigningKey.load(tmp_path / "root.key"), now, new_online_keys=True)
    repository.bring_in_line([release(2)], now)
    device = reader(tmp_path, repository)
    assert device.versions() == [2]
    for role, key in stolen.items():
        (tmp_path / f"{role}.key").write_bytes(key)
    repository.bring_in_line([release(3)], now)
    with pytest.raises(SignatureError):
        device.versions()


def test_a_root_signed_by_another_key_is_refused_before_it_is_written(tmp_path: Path) -> None:
    repository = made(tmp_path)
    with pytest.raises(ConfigError, match="not the root key"):
        repository.renew_root(SigningKey.generate(), time.time())
    assert [path.name for path in (tmp_path / "tuf").iterdir()] == ["1.root.json"]


def test_a_folder_without_a_repository_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="server init"):
        Repository(tmp_path, ReleasePolicy()).first_root()


def test_what_devices_fetch_stays_small_however_many_models_there_are(tmp_path: Path) -> None:
    repository = made(tmp_path)
    listed = shortened([release(1), *(release(version, 50) for version in range(2, 1000))])
    assert len(listed) == MAX_RELEASES
    assert listed[0] == release(1)
    assert listed[-1] == release(999, 50)
    repository.bring_in_line(listed, time.time())
    assert len(reader(tmp_path, repository).versions()) == MAX_RELEASES
    assert sum(path.stat().st_size for path in (tmp_path / "tuf").glob("*.json")) < 20_000


def test_two_writers_take_turns(tmp_path: Path) -> None:
    import threading

    repository = made(tmp_path)
    repository.bring_in_line([release(1)], time.time())
    held = threading.Event()
    order: list[str] = []

    def write(after: Callable[[], object]) -> None:
        with repository.locked():
            order.append("second")
            after()

    with repository.locked():
        thread = threading.Thread(target=write, args=(held.set,))
        thread.start()
        assert not held.wait(0.1)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]
