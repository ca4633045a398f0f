"""Which devices are there: those that asked for work lately, with the published model at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Presence:
    """When each device last asked for work, and with which model."""

    _asked: dict[str, tuple[float, int]] = field(default_factory=dict)

    def note(self, device_id: str, model_version: int, now: float) -> None:
        """A device asks for work."""
        self._asked[device_id] = (now, model_version)

    def forget(self, device_id: str) -> None:
        """A device is busy, or shut out."""
        self._asked.pop(device_id, None)

    def present(self, model_version: int, now: float, presence_s: float) -> frozenset[str]:
        """Devices to draw a cohort from."""
        self._asked = {name: seen for name, seen in self._asked.items() if now - seen[0] <= presence_s}
        return frozenset(name for name, (_, version) in self._asked.items() if version == model_version)

    def snapshot(self) -> Mapping[str, float]:
        """When each device last asked."""
        return {name: when for name, (when, _) in self._asked.items()}
