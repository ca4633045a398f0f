from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emberfleet.agent import store as module
from emberfleet.agent.rounds import secure
from emberfleet.agent.rounds.feedback import residual_of
from emberfleet.agent.rounds.state import DeviceRound, Stage
from emberfleet.agent.store import RoundStore
from emberfleet.core.arrays import Float32
from emberfleet.core.errors import FormatError, StorageError
from tests.agent.rounds.world import PLAN, Device, World


@pytest.fixture
def device() -> Device:
    world = World.of(3)
    world.group()
    return world.devices[0]


def train(store: RoundStore, device: Device, residual: Float32 | None = None) -> DeviceRound:
    body = secure.mask_change(device.round, device.change, device.samples)
    trained = secure.keep_masked(device.round, body)
    store.save_trained(trained, body, residual)
    device.body = body
    return trained


def test_nothing_is_there_before_the_first_round(tmp_path: Path) -> None:
    store = RoundStore(tmp_path)
    assert (store.load(), store.over(), store.residual(PLAN)) == (None, (), None)


def test_a_round_is_read_back_by_another_process_and_by_its_owner_alone(
    tmp_path: Path, device: Device
) -> None:
    RoundStore(tmp_path).save(device.round)
    assert RoundStore(tmp_path).load() == device.round
    assert stat.S_IMODE((tmp_path / "round.json").stat().st_mode) == 0o600


def test_the_update_is_there_before_the_round_says_so(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RoundStore(tmp_path)
    store.save(device.round)

    def full(_: DeviceRound) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "save", full)
        with pytest.raises(StorageError, match="full"):
            train(store, device)
    assert store.load() == device.round
    trained = train(store, device)
    assert store.load() == trained
    assert store.read_body(trained) == device.body
    assert stat.S_IMODE((tmp_path / "round.update").stat().st_mode) == 0o600


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_an_update_that_is_not_the_one_that_was_made_is_never_sent(
    tmp_path: Path, device: Device, damage: str
) -> None:
    store = RoundStore(tmp_path)
    trained = train(store, device)
    path = tmp_path / "round.update"
    if damage == "gone":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data if damage == "changed" else data[:-1])
    with pytest.raises((FormatError, StorageError)):
        store.read_body(trained)
    assert store.load() is None
    assert not (tmp_path / "round.json").exists()


def test_a_round_that_ended_is_gone_and_remembered(tmp_path: Path, device: Device) -> None:
    store = RoundStore(tmp_path)
    trained = train(store, device, np.zeros(PLAN.size, np.float32))
    store.end(trained)
    assert RoundStore(tmp_path).load() is None
    assert RoundStore(tmp_path).over() == (trained.round_id,)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rounds.json"]


def test_a_round_that_ended_as_the_power_failed_is_not_taken_up_again(tmp_path: Path, device: Device) -> None:
    store = RoundStore(tmp_path)
    store.save(device.round)
    before = (tmp_path / "round.json").read_bytes()
    store.end(device.round)
    (tmp_path / "round.json").write_bytes(before)
    assert RoundStore(tmp_path).load() is None
    assert not (tmp_path / "round.json").exists()


def test_on_a_full_disk_the_rounds_files_go_all_the_same(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    store = RoundStore(tmp_path)
    trained = train(store, device)
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_private", full)
        with pytest.raises(StorageError, match="full"):
            store.end(trained)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_read_ends_the_round_and_not_the_device(tmp_path: Path, device: Device) -> None:
    store = RoundStore(tmp_path)
    store.save(device.round)
    path = tmp_path / "round.json"
    path.write_bytes(path.read_bytes()[:-9])
    assert store.load() is None
    assert not path.exists()


def test_the_oldest_rounds_are_forgotten_first(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROUNDS_REMEMBERED", 5)
    store = RoundStore(tmp_path)
    for number in range(7):
        terms = replace(device.round.offer.terms, round_id=f"{number:032x}")
        store.end(DeviceRound(replace(device.round.offer, terms=terms), Stage.JOINED))
    over = store.over()
    assert over == tuple(f"{number:032x}" for number in range(2, 7))


def test_what_an_upload_keeps_back_counts_once_it_is_acknowledged(tmp_path: Path, device: Device) -> None:
    store = RoundStore(tmp_path)
    left = residual_of(device.change, 1, device.round.group.layout, bytes(32))
    trained = train(store, device, left)
    assert store.residual(PLAN) is None
    store.note_acknowledged()
    store.note_acknowledged()
    store.end(trained)
    found = store.residual(PLAN)
    assert found is not None
    np.testing.assert_array_equal(found, left)


def test_what_a_refused_upload_kept_back_changes_nothing(tmp_path: Path, device: Device) -> None:
    store = RoundStore(tmp_path)
    before = np.ones(PLAN.size, np.float32)
    train(store, device, before)
    store.note_acknowledged()
    trained = train(store, device, np.zeros(PLAN.size, np.float32))
    store.end(trained)
    found = store.residual(PLAN)
    assert found is not None
    np.testing.assert_array_equal(found, before)


def test_a_residual_of_other_tensors_or_a_damaged_one_is_not_used(tmp_path: Path, device: Device) -> None:
    store = RoundStore(tmp_path)
    train(store, device, np.ones(PLAN.size, np.float32))
    store.note_acknowledged()
    assert store.residual(replace(PLAN, tensors=PLAN.tensors[:1])) is None
    (tmp_path / "residual.safetensors").write_bytes(b"not tensors")
    assert store.residual(PLAN) is None
