"""Which devices are there: those that asked for work lately, with the published model at hand."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Presence:
    """When each device last asked for work, and with which model."""

    _asked: dict[str, tuple[float, int]] = field(default_factory=dict)

    def note(self, device_id: str, model_version: int, now: float) -> bool:
        """A device asks for work; True where that is news."""
        before = self._asked.get(device_id)
        self._asked[device_id] = (now, model_version)
        return before is None or before[1] != model_version

    def __len__(self) -> int:
        return len(self._asked)

    def forget(self, device_id: str) -> None:
        """A device is busy, or shut out."""
        self._asked.pop(device_id, None)

    def present(self, model_version: int, now: float, presence_s: float) -> frozenset[str]:
        """Devices to draw a cohort from."""
        self._asked = {name: seen for name, seen in self._asked.items() if now - seen[0] <= presence_s}
        return frozenset(name for name, (_, version) in self._asked.items() if version == model_version)
