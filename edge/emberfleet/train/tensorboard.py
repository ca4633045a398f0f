"""Training figures as event files that TensorBoard reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol

from emberfleet.core.errors import ConfigError
from emberfleet.train.history import EpochRecord
from emberfleet.train.loop import Observer


class _Writer(Protocol):
    def add_scalar(self, tag: str, value: float, step: int) -> None: ...

    def close(self) -> None: ...


class EventLog:
    """Writes scalars to one new event file in a folder; a context manager.

    Raises:
        ConfigError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "event files need tensorboardX: install it with `pip install 'emberfleet[train]'`"
            ) from error
        self._writer: _Writer = SummaryWriter(str(folder))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def events_available() -> bool:
    """Whether event files can be written on this machine."""
    import importlib.util

    return importlib.util.find_spec("tensorboardX") is not None


class EventObserver(Observer):
    """Writes the curves of a run: one point per epoch, and the loss and rate of some steps."""

    def __init__(self, folder: Path, every: int = 50) -> None:
        self._log = EventLog(folder)
        self._every = every
        self._steps_before = 0
        self._phase_steps = 0

    def on_phase(self, name: str, epochs_done: int, epochs: int, steps_per_epoch: int) -> None:
        """Steps are counted on through the phases."""
        self._steps_before += self._phase_steps
        self._phase_steps = epochs * steps_per_epoch

    def on_step(self, step: int, loss: float, rate: float) -> None:
        """Every so many steps."""
        if step % self._every == 0:
            self._log.write(self._steps_before + step, {"step/loss": loss, "step/rate": rate})

    def on_epoch(self, record: EpochRecord) -> None:
        """Losses and accuracy."""
        values = {
            "epoch/loss": record.loss,
            "epoch/validation_loss": record.validation_loss,
            "epoch/validation_accuracy": record.validation_accuracy,
            "epoch/seconds": record.seconds,
        }
        self._log.write(record.epoch, {tag: v for tag, v in values.items() if v is not None})

    def close(self) -> None:
        """Flush and close the file."""
        self._log.close()
