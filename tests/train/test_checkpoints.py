"""A checkpoint comes back bit for bit, or is refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from emberfleet.core.errors import ConfigError, FormatError
from emberfleet.train.checkpoints import INDEX_FILE, TrainState, load_checkpoint, save_checkpoint
from emberfleet.train.history import EpochRecord

RUN = {"config": {"epochs": 3, "erase_area": (0.1, 0.2)}, "backend": "numpy"}


def state(epochs: int = 1) -> TrainState:
    rows = (np.arange(6).reshape(2, 3) / 7 + epochs).astype(np.float32)
    records = [EpochRecord(n + 1, "float", 0.1, 1 / 3, 0.25, None, 1.5) for n in range(epochs)]
    return TrainState(
        {"conv/weight": rows}, 0, epochs, {"step": np.array([7], np.float32)}, {"conv/weight": rows * 2},
        (0.5, -1 / 3), 1, records,
    )  # fmt: skip


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved = state()
    save_checkpoint(tmp_path, saved, RUN)
    found = load_checkpoint(tmp_path, RUN)
    assert found is not None
    for name in ("tensors", "optimizer", "best"):
        before, after = getattr(saved, name), getattr(found, name)
        assert {k: v.tobytes() for k, v in before.items()} == {k: v.tobytes() for k, v in after.items()}
    for name in ("phase", "phase_epochs", "best_score", "stale_epochs", "history"):
        assert getattr(found, name) == getattr(saved, name)


def test_only_the_latest_checkpoint_is_kept(tmp_path: Path) -> None:
    for epochs in (1, 2, 3):
        save_checkpoint(tmp_path, state(epochs), RUN)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-3.safetensors", INDEX_FILE]


def test_where_nothing_was_saved_nothing_is_found(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "missing", RUN) is None


def test_a_crash_before_the_index_is_replaced_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emberfleet.core import files
    from emberfleet.train import checkpoints

    save_checkpoint(tmp_path, state(1), RUN)

    def power_cut(path: Path, data: bytes) -> None:
        if path.name == INDEX_FILE:
            raise InterruptedError
        files.write_atomically(path, data)

    monkeypatch.setattr(checkpoints, "write_atomically", power_cut)
    with pytest.raises(InterruptedError):
        save_checkpoint(tmp_path, state(2), RUN)
    found = load_checkpoint(tmp_path, RUN)
    assert found is not None
    assert found.phase_epochs == 1


def test_another_run_is_named_by_what_differs(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(), RUN)
    with pytest.raises(ConfigError, match="backend differ"):
        load_checkpoint(tmp_path, {**RUN, "backend": "opencl"})


def test_damaged_tensors_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(), RUN)
    file = tmp_path / "checkpoint-1.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(FormatError, match="damaged"):
        load_checkpoint(tmp_path, RUN)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", 2),
        ("file", "../other.safetensors"),
        ("file", None),
        ("phase", -1),
        ("phase_epochs", True),
        ("best_score", [1.0]),
        ("history", [{"epoch": 1}]),
        ("run", None),
    ],
)
def test_an_index_that_was_tampered_with_is_refused(tmp_path: Path, name: str, value: object) -> None:
    save_checkpoint(tmp_path, state(), RUN)
    index = tmp_path / INDEX_FILE
    index.write_text(json.dumps({**json.loads(index.read_text()), name: value}))
    with pytest.raises(FormatError):
        load_checkpoint(tmp_path, RUN)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_an_index_that_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX_FILE).write_text(text)
    with pytest.raises(FormatError):
        load_checkpoint(tmp_path, RUN)
