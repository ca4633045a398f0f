"""Which devices are there: those that asked for work lately, with the published model at hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Presence:
    """When each device last asked for work, and with which model."""

    _asked: dict[str, tuple[float, int]] = field(default_factory=dict)
    _by_version: Counter[int] = field(default_factory=Counter)

    def note(self, device_id: str, model_version: int, now: float) -> bool:
        """A device asks for work; True where that is news."""
        before = self._asked.get(device_id)
        self._asked[device_id] = (now, model_version)
        news = before is None or before[1] != model_version
        if before is not None and news:
            self._by_version[before[1]] -= 1
        if news:
            self._by_version[model_version] += 1
        return news

    def waiting(self, model_version: int) -> int:
        """How many devices with a model asked lately; those that went unnoticed are still counted."""
        return self._by_version[model_version]

    def forget(self, device_id: str) -> None:
        """A device is busy, or shut out."""
        before = self._asked.pop(device_id, None)
        if before is not None:
            self._by_version[before[1]] -= 1

    def present(self, model_version: int, now: float, presence_s: float) -> frozenset[str]:
        """Devices to draw a cohort from."""
        self._asked = {name: seen for name, seen in self._asked.items() if now - seen[0] <= presence_s}
        self._by_version = Counter(version for _, version in self._asked.values())
        return frozenset(name for name, (_, version) in self._asked.items() if version == model_version)
