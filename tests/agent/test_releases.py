"""A device's list of models, fed with anything."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emberfleet.agent.releases import CHECK_EVERY_S, ReleaseList
from emberfleet.core.errors import EmberError, FormatError, SignatureError, StorageError
from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.releases import Release
from emberfleet.server.registry.policy import ReleasePolicy
from emberfleet.server.registry.repository import Repository

DEVICE = "d" * 32
FILES = ("timestamp.json", "2.root.json", "1.snapshot.json", "1.targets.json")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    made = Repository(tmp_path_factory.mktemp("server"), ReleasePolicy())
    made.make(time.time())
    made.bring_in_line([Release(1, "a" * 64, 10)], time.time())
    return made


def listing(
    repository: Repository, folder: Path, changed: Callable[[str, bytes], bytes], clock: Callable[[], float]
) -> ReleaseList:
    """A device's list, which gets what `changed` makes of the server's files."""

    def fetch(name: str, limit: int) -> bytes:
        found = repository.read(name)
        data = changed(name, b"" if found is None else found)
        if not data:
            raise RefusedError(Reason.NOT_FOUND, "none")
        if len(data) > limit:
            raise FormatError("larger than allowed")
        return data

    return ReleaseList(folder / "tuf", repository.first_root(), DEVICE, fetch, clock)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FILES), st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_in_place_of_any_file_raise_nothing_but_our_errors(
    repository: Repository, name: str, data: bytes
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = listing(
            repository, Path(folder), lambda asked, good: data if asked == name else good, time.time
        )
        try:
            newest = found.refresh()
        except EmberError:
            return
        assert newest == Release(1, "a" * 64, 10)
        assert not data, "only a missing root is as good as the server's own answer"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FILES), st.data())
def test_one_changed_byte_never_changes_what_a_device_takes(
    repository: Repository, name: str, data: st.DataObject
) -> None:
    def changed(asked: str, good: bytes) -> bytes:
        if asked != name or not good:
            return good
        place = data.draw(st.integers(0, len(good) - 1))
        flipped = good[place] ^ data.draw(st.integers(1, 255))
        return good[:place] + bytes([flipped]) + good[place + 1 :]

    with tempfile.TemporaryDirectory() as folder:
        found = listing(repository, Path(folder), changed, time.time)
        try:
            assert found.refresh() == Release(1, "a" * 64, 10)
        except EmberError:
            return


@pytest.mark.parametrize(
    "bomb",
    [b"[" * 4000, b'{"signed":' * 400, b'{"a":' + b"9" * 4000 + b"}", b'{"signed":{"version":1e999}}'],
    ids=["deep list", "deep object", "long number", "infinity"],
)
@pytest.mark.parametrize("name", FILES)
def test_a_json_bomb_is_refused(repository: Repository, tmp_path: Path, name: str, bomb: bytes) -> None:
    found = listing(repository, tmp_path, lambda asked, good: bomb if asked == name else good, time.time)
    with pytest.raises((SignatureError, FormatError)):
        found.refresh()


def test_a_list_is_due_at_once_then_hourly_and_when_it_runs_out(tmp_path: Path) -> None:
    made = Repository(tmp_path, ReleasePolicy())
    made.make(time.time())
    made.bring_in_line([Release(1, "a" * 64, 10)], time.time())
    now = time.time()
    found = listing(made, tmp_path, lambda _name, good: good, lambda: now)
    assert found.is_due()
    found.refresh()
    assert not found.is_due()
    now += CHECK_EVERY_S - 1
    assert not found.is_due()
    now += 1
    assert found.is_due()
    short = Repository(tmp_path, ReleasePolicy(timestamp_s=600))
    now = time.time()
    short.bring_in_line([Release(1, "a" * 64, 10)], now)
    found.refresh()
    now += 590
    assert not found.is_due()
    now += 11
    assert found.is_due()


def test_a_device_whose_kept_list_is_damaged_fetches_it_again(repository: Repository, tmp_path: Path) -> None:
    found = listing(repository, tmp_path, lambda _name, good: good, time.time)
    assert found.refresh() is not None
    for path in (tmp_path / "tuf").glob("*.json"):
        if not path.is_symlink():
            path.write_bytes(b"\0" * 50)
    assert found.refresh() == Release(1, "a" * 64, 10)


def test_a_folder_that_cannot_be_written_is_a_storage_error(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "tuf").write_text("not a folder")
    with pytest.raises(StorageError):
        listing(repository, tmp_path, lambda _name, good: good, time.time).refresh()


def test_what_the_client_raises_comes_through(repository: Repository, tmp_path: Path) -> None:
    def revoked(name: str, limit: int) -> bytes:
        raise RefusedError(Reason.REVOKED, "shut out")

    found = ReleaseList(tmp_path / "tuf", repository.first_root(), DEVICE, revoked)
    with pytest.raises(RefusedError) as refused:
        found.refresh()
    assert refused.value.reason is Reason.REVOKED


def test_a_root_that_is_none_is_refused(tmp_path: Path) -> None:
    def nothing(name: str, limit: int) -> Any:
        raise AssertionError("nothing is asked for")

    with pytest.raises(SignatureError):
        ReleaseList(tmp_path / "tuf", b"{}", DEVICE, nothing).refresh()
