"""Uploads on the disk: chunks in order, once each, whole or not at all, whatever stops the server."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberfleet.core.errors import StorageError
from emberfleet.core.messages import Reason, RefusedError, UploadProgress
from emberfleet.server.storage.uploads import Uploads

ROUND, DEVICE, OTHER = "1" * 32, "a" * 32, "b" * 32
BODY = bytes(range(250))
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    (tmp_path / ROUND).mkdir()
    return Uploads(tmp_path)


def put(uploads: Uploads, begin: int, end: int, body: bytes = BODY) -> int:
    digest = hashlib.sha256(body).hexdigest()
    return uploads.write(ROUND, DEVICE, len(body), digest, begin, body[begin:end]).received


def refused(uploads: Uploads, begin: int, end: int, body: bytes = BODY) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        put(uploads, begin, end, body)
    return caught.value


def test_chunks_become_the_update_under_its_final_name(uploads: Uploads, tmp_path: Path) -> None:
    assert uploads.progress(ROUND, DEVICE) == UploadProgress(0, 0, "")
    assert put(uploads, 0, 100) == 100
    assert uploads.progress(ROUND, DEVICE) == UploadProgress(100, 250, DIGEST)
    assert not uploads.path(ROUND, DEVICE).exists()
    assert put(uploads, 100, 250) == 250
    uploads.finish(ROUND, DEVICE, 250, DIGEST)
    assert uploads.path(ROUND, DEVICE).read_bytes() == BODY
    assert uploads.path(ROUND, DEVICE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{DEVICE}.update"]
    assert uploads.progress(ROUND, DEVICE) == UploadProgress(250, 250, DIGEST)


def test_a_chunk_sent_again_changes_nothing(uploads: Uploads) -> None:
    put(uploads, 0, 100)
    put(uploads, 100, 200)
    assert put(uploads, 0, 100) == 200
    assert put(uploads, 100, 200) == 200
    put(uploads, 200, 250)
    uploads.finish(ROUND, DEVICE, 250, DIGEST)
    assert put(uploads, 200, 250) == 250
    uploads.finish(ROUND, DEVICE, 250, DIGEST)
    assert uploads.path(ROUND, DEVICE).read_bytes() == BODY


@pytest.mark.parametrize(("begin", "end"), [(50, 100), (0, 150), (101, 200), (150, 250), (250, 250)])
def test_a_chunk_that_begins_elsewhere_is_told_where_to_go_on(uploads: Uploads, begin: int, end: int) -> None:
    put(uploads, 0, 100)
    if end <= 100:
        assert put(uploads, begin, end) == 100
        return
    error = refused(uploads, begin, end)
    assert (error.reason, error.received) == (Reason.WRONG_OFFSET, 100)
    assert put(uploads, 100, 250) == 250


def test_a_body_that_is_not_the_one_announced_is_dropped_and_the_next_may_come(uploads: Uploads) -> None:
    uploads.write(ROUND, DEVICE, 250, DIGEST, 0, bytes(250))
    with pytest.raises(RefusedError) as caught:
        uploads.finish(ROUND, DEVICE, 250, DIGEST)
    assert (caught.value.reason, caught.value.received) == (Reason.WRONG_DIGEST, 0)
    assert uploads.progress(ROUND, DEVICE) == UploadProgress(0, 0, "")
    put(uploads, 0, 250)
    uploads.finish(ROUND, DEVICE, 250, DIGEST)
    assert uploads.path(ROUND, DEVICE).read_bytes() == BODY


def test_another_update_begins_anew_but_never_replaces_a_finished_one(uploads: Uploads) -> None:
    put(uploads, 0, 100)
    assert refused(uploads, 100, 200, BODY[::-1]).reason is Reason.WRONG_OFFSET
    assert put(uploads, 0, 250, BODY[::-1]) == 250
    uploads.finish(ROUND, DEVICE, 250, hashlib.sha256(BODY[::-1]).hexdigest())
    assert refused(uploads, 0, 100).reason is Reason.ALREADY_ACCEPTED
    assert uploads.path(ROUND, DEVICE).read_bytes() == BODY[::-1]
    uploads.drop(ROUND, DEVICE)
    assert put(uploads, 0, 100) == 100


def test_devices_do_not_meet(uploads: Uploads) -> None:
    put(uploads, 0, 100)
    assert uploads.progress(ROUND, OTHER).received == 0
    uploads.write(ROUND, OTHER, 250, DIGEST, 0, BODY)
    uploads.finish(ROUND, OTHER, 250, DIGEST)
    assert uploads.progress(ROUND, DEVICE).received == 100


@given(st.lists(st.integers(1, 250), max_size=8), st.integers(0, 249))
@settings(max_examples=30)
def test_a_server_killed_in_the_middle_of_a_write_goes_on_from_what_is_there(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], torn: int
) -> None:
    folder = tmp_path_factory.mktemp("rounds")
    (folder / ROUND).mkdir()
    received = 0
    for cut in sorted(set(cuts)):
        received = put(Uploads(folder), received, cut)
    for part in (folder / ROUND).glob("parts/*"):
        os.truncate(part, min(torn, received))
        received = min(torn, received)
    again = Uploads(folder)
    assert again.progress(ROUND, DEVICE).received == received
    put(again, received, 250)
    again.finish(ROUND, DEVICE, 250, DIGEST)
    assert again.path(ROUND, DEVICE).read_bytes() == BODY


def test_a_full_disk_keeps_what_was_there_and_nothing_of_the_chunk(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(uploads, 0, 100)
    pwrite = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if offset >= 130:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data[:30], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StorageError, match="free some space"):
            put(uploads, 100, 250)
    assert uploads.progress(ROUND, DEVICE) == UploadProgress(100, 250, DIGEST)
    assert put(uploads, 100, 250) == 250


def test_the_update_is_on_the_disk_before_it_has_its_name(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(uploads, 0, 250)

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(StorageError, match="Input/output"):
            uploads.finish(ROUND, DEVICE, 250, DIGEST)
    assert not uploads.path(ROUND, DEVICE).exists()
    uploads.finish(ROUND, DEVICE, 250, DIGEST)
    assert uploads.path(ROUND, DEVICE).exists()


def test_a_round_that_is_over_takes_nothing(uploads: Uploads) -> None:
    with pytest.raises(RefusedError) as caught:
        uploads.write(OTHER, DEVICE, 250, DIGEST, 0, BODY)
    assert caught.value.reason is Reason.LATE
