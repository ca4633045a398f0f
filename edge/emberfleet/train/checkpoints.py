"""Where a training run can go on after it was stopped, to the same bits.

``checkpoint-N.safetensors`` holds the tensors of epoch N and ``checkpoint.json`` names it with
its sha256. The JSON is replaced last and in one step: after a crash it names a whole file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emberfleet.core.arrays import Float32
from emberfleet.core.errors import ConfigError, FormatError, StorageError
from emberfleet.core.files import read_limited, write_atomically
from emberfleet.core.tensors import decode_tensors, encode_tensors
from emberfleet.train.documents import read_document
from emberfleet.train.history import EpochRecord, history_from_json, history_to_json

INDEX_FILE = "checkpoint.json"
FORMAT = 1
MAX_TENSOR_BYTES = 4 << 30


@dataclass
class TrainState:
    """All that the next epoch depends on.

    Attributes:
        phase: Index of the phase that is under way.
        phase_epochs: Epochs of it that are done.
        tensors: Of the network, as the trainer holds them.
        optimizer: Of the trainer; empty at the start of a phase.
        best: Tensors of the best epoch of this phase so far.
        best_score: ``(accuracy, -loss)`` of that epoch; None before the first.
        stale_epochs: Epochs since then.
        history: One record per epoch.
    """

    tensors: Mapping[str, Float32]
    phase: int = 0
    phase_epochs: int = 0
    optimizer: Mapping[str, Float32] = field(default_factory=dict)
    best: Mapping[str, Float32] = field(default_factory=dict)
    best_score: tuple[float, float] | None = None
    stale_epochs: int = 0
    history: list[EpochRecord] = field(default_factory=list)


_GROUPS = ("tensors", "optimizer", "best")


def save_checkpoint(folder: Path, state: TrainState, run: Mapping[str, Any]) -> None:
    """Write the state; the previous one is removed once the new one is in place.

    Args:
        folder: Made where it is missing.
        state: After a whole epoch.
        run: What identifies the run (settings, graph, data), as JSON values: `load_checkpoint` compares it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    groups = {group: getattr(state, group) for group in _GROUPS}
    data = encode_tensors(
        {f"{g}:{name}": array for g, arrays in groups.items() for name, array in arrays.items()}
    )
    name = f"checkpoint-{len(state.history)}.safetensors"
    document = {
        "format": FORMAT,
        "file": name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "phase": state.phase,
        "phase_epochs": state.phase_epochs,
        "best_score": state.best_score,
        "stale_epochs": state.stale_epochs,
        "history": history_to_json(state.history),
        "run": dict(run),
    }
    write_atomically(folder / name, data)
    write_atomically(folder / INDEX_FILE, json.dumps(document, indent=1, allow_nan=False).encode())
    for old in folder.glob("checkpoint-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def load_checkpoint(folder: Path, run: Mapping[str, Any]) -> TrainState | None:
    """The state that `save_checkpoint` left, or None where there is none.

    Raises:
        ConfigError: the checkpoint is of a run with other settings, another network or other data.
        FormatError: it is damaged.
    """
    path = folder / INDEX_FILE
    if not path.exists():
        return None
    document = read_document(path, FORMAT)
    _compare(path, document.get("run"), json.loads(json.dumps(dict(run))))
    arrays = _read_arrays(folder, document)
    score = document.get("best_score")
    if score is not None and not (isinstance(score, list) and [type(v) for v in score] == [float, float]):
        raise FormatError(f"{path}: 'best_score' is {score!r}, expected two numbers")
    return TrainState(
        phase=_count(path, document, "phase"),
        phase_epochs=_count(path, document, "phase_epochs"),
        best_score=None if score is None else (score[0], score[1]),
        stale_epochs=_count(path, document, "stale_epochs"),
        history=list(history_from_json(document.get("history"))),
        **arrays,
    )


def _compare(path: Path, saved: object, present: Mapping[str, Any]) -> None:
    if not isinstance(saved, dict):
        raise FormatError(f"{path}: 'run' is missing")
    other = [name for name in sorted({*saved, *present}) if saved.get(name) != present.get(name)]
    if other:
        raise ConfigError(
            f"{path} is of another run: {', '.join(other)} differ; repeat the first run's options, or choose "
            "another folder"
        )


def _read_arrays(folder: Path, document: Mapping[str, Any]) -> dict[str, dict[str, Float32]]:
    name = document.get("file")
    if not isinstance(name, str) or Path(name).name != name:
        raise FormatError(f"{folder / INDEX_FILE}: 'file' is {name!r}, expected the name of a file beside it")
    data = read_limited(folder / name, MAX_TENSOR_BYTES)
    if hashlib.sha256(data).hexdigest() != document.get("sha256"):
        raise FormatError(f"{folder / name}: damaged; delete {INDEX_FILE} to start over")
    groups: dict[str, dict[str, Float32]] = {group: {} for group in _GROUPS}
    for full, array in decode_tensors(data, MAX_TENSOR_BYTES).items():
        group, _, rest = full.partition(":")
        if group not in groups:
            raise FormatError(f"{folder / name}: unknown tensor '{full}'")
        groups[group][rest] = array
    return groups


def _count(path: Path, document: Mapping[str, Any], name: str) -> int:
    value = document.get(name)
    if type(value) is not int or value < 0:
        raise FormatError(f"{path}: '{name}' is {value!r}, expected a whole number")
    return value
