"""What a training run leaves behind of each epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from emberfleet.core.errors import FormatError

MAX_EPOCHS = 100_000


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch.

    Attributes:
        epoch: Counted from 1, on through all phases.
        phase: ``float``, or ``quantized`` for training with fake quantization.
        rate: Learning rate of the epoch's last step.
        loss: Mean training loss, of the augmented batches, before each update.
        validation_loss: On the images held out; None where none are.
        validation_accuracy: Likewise.
        seconds: What the epoch took, validation included.
    """

    epoch: int
    phase: str
    rate: float
    loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float


def history_to_json(history: Sequence[EpochRecord]) -> list[dict[str, Any]]:
    """A JSON array of objects."""
    return [asdict(record) for record in history]


def history_from_json(document: object) -> tuple[EpochRecord, ...]:
    """Read the array back; `FormatError` when it is not one of ours."""
    if not isinstance(document, list) or len(document) > MAX_EPOCHS:
        raise FormatError(f"history: expected an array of at most {MAX_EPOCHS} epochs")
    return tuple(_record(entry) for entry in document)


def _record(entry: object) -> EpochRecord:
    names = {field.name for field in fields(EpochRecord)}
    if not isinstance(entry, Mapping) or set(entry) != names:
        raise FormatError(f"history: an epoch has exactly the fields {', '.join(sorted(names))}")
    if type(entry["epoch"]) is not int or type(entry["phase"]) is not str:
        raise FormatError("history: 'epoch' is a whole number and 'phase' a text")
    return EpochRecord(
        entry["epoch"],
        entry["phase"],
        _number(entry, "rate"),
        _number(entry, "loss"),
        None if entry["validation_loss"] is None else _number(entry, "validation_loss"),
        None if entry["validation_accuracy"] is None else _number(entry, "validation_accuracy"),
        _number(entry, "seconds"),
    )


def _number(entry: Mapping[str, Any], name: str) -> float:
    value = entry[name]
    if type(value) not in (int, float) or not math.isfinite(value):
        raise FormatError(f"history: '{name}' is {value!r}, expected a finite number")
    return float(value)
