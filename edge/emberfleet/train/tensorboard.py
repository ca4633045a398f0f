"""Training figures as event files that TensorBoard reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol

from emberfleet.core.errors import ConfigError


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
