from __future__ import annotations

import json
import logging
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emberfleet.engine.opencl import tuned_tiles
from emberfleet.engine.opencl.device import OpenCLDevice
from emberfleet.engine.opencl.tiles import ForwardShape, ForwardTile, WeightShape, WeightTile

TILES: dict[tuned_tiles.Shape, tuned_tiles.Tile] = {
    ForwardShape((3, 1), 48, 64, 2, 7, 8, 4): ForwardTile(2, 1, 4, 4),
    ForwardShape((1, 1), 16, 16, 1, 1, 40, 4): ForwardTile(3, 1, 2, 4),
    WeightShape((3, 1), 48, 64, 14, 7, 4): WeightTile(3, 2, 1, 4),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def changed(device: OpenCLDevice, **changes: Any) -> bytes:
    return json.dumps({**json.loads(tuned_tiles.encode(device, TILES)), **changes}).encode()


def write(device: OpenCLDevice, data: bytes) -> None:
    path = tuned_tiles.file_of(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_tiles_come_back_as_they_were_kept(device: OpenCLDevice) -> None:
    tuned_tiles.save(device, TILES)
    assert tuned_tiles.load(device) == TILES
    assert stat.S_IMODE(tuned_tiles.file_of(device).stat().st_mode) == 0o600


def test_a_device_is_given_its_tiles_once(device: OpenCLDevice) -> None:
    tuned_tiles.save(device, TILES)
    fresh = replace(device, tuned={})
    tuned_tiles.remember(fresh)
    assert fresh.tuned == TILES
    fresh.tuned.clear()
    tuned_tiles.remember(fresh)
    assert fresh.tuned == {}


def test_without_a_file_there_are_no_tiles_and_nothing_is_said(
    device: OpenCLDevice, caplog: pytest.LogCaptureFixture
) -> None:
    assert tuned_tiles.load(device) == {}
    assert not caplog.records


def test_another_number_of_threads_has_a_file_of_its_own(device: OpenCLDevice) -> None:
    other = replace(device, limits=replace(device.limits, compute_units=device.limits.compute_units + 1))
    assert tuned_tiles.file_of(other) != tuned_tiles.file_of(device)
    assert tuned_tiles.file_of(replace(device, driver="another")) != tuned_tiles.file_of(device)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"kernels": "0" * 64},
        {"kernels": 5},
        {"forward": [[3, 1, 48, 64, 2, 7, 8, 4, 2, 1, 4]]},
        {"forward": [[3, 1, 48, 64, 2, 7, 8, 4, 2, 1, 4, True]]},
        {"forward": [[3, 1, 48, 64, 2, 7, 8, 4, 2, 1, 5, 4]]},
        {"forward": [[3, 1, 48, 64, 2, 7, 8, 4, 9, 1, 1, 4]]},
        {"forward": [[3, 1, 48, 64, 2, 7, 8, 0, 2, 1, 1, 0]]},
        {"forward": [[3, 1, 48, 64, 2, 7, 8, 3, 2, 1, 1, 3]]},
        {"forward": [[3, 1, 48, 64, 2, 7, 8, -4, -2, -1, 4, 4]]},
        {"weight": [[3, 1, 48, 64, 14, 7, 4, 2, 2, 1, 4]]},
        {"weight": [[3, 1, 48, 64, 14, 7, 4, 3, 5, 1, 4]]},
        {"weight": "all"},
        {"forward": [[1] * 12] * (tuned_tiles.MAX_TILES + 1)},
        {"more": 1},
    ],
)
def test_a_file_that_does_not_count_is_ignored_with_one_line_and_replaced(
    device: OpenCLDevice, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    write(device, changed(device, **changes))
    with caplog.at_level(logging.WARNING):
        assert tuned_tiles.load(device) == {}
    assert len(caplog.records) == 1
    assert "ignoring tuned tiles" in caplog.text
    tuned_tiles.save(device, TILES)
    assert tuned_tiles.load(device) == TILES


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_damaged_file_is_ignored(
    device: OpenCLDevice, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    write(device, data)
    assert tuned_tiles.load(device) == {}
    assert len(caplog.records) == 1


def test_a_file_that_is_too_large_is_not_even_read(
    device: OpenCLDevice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(device, tuned_tiles.encode(device, TILES) + b" " * tuned_tiles.MAX_BYTES)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("it was read"))
    assert tuned_tiles.load(device) == {}
    assert len(caplog.records) == 1


def test_the_oldest_tiles_are_forgotten_when_there_are_too_many(device: OpenCLDevice) -> None:
    many: dict[tuned_tiles.Shape, tuned_tiles.Tile] = {
        ForwardShape((1, 1), channels + 1, 16, 1, 1, 8, 4): ForwardTile(1, 1, 1, 4)
        for channels in range(tuned_tiles.MAX_TILES + 5)
    }
    tuned_tiles.save(device, many)
    assert tuned_tiles.load(device) == dict(list(many.items())[5:])


def test_a_folder_that_cannot_be_written_to_is_no_error(
    device: OpenCLDevice, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (cache / "emberfleet").write_text("in the way")
    tuned_tiles.save(device, TILES)
    assert "not kept" in caplog.text
