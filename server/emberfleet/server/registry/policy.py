"""How models are released: to how many devices, when a bad one is halted, how long signatures last."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

from emberfleet.core.codec import Fields
from emberfleet.core.errors import ConfigError
from emberfleet.core.releases import EVERYBODY

DAY_S: Final = 24 * 3600
MAX_LIFETIME_S: Final = 50 * 365 * DAY_S


@dataclass(frozen=True, slots=True)
class ReleasePolicy:
    """The settings of releases.

    Attributes:
        rollout_percent: Share of the devices that a new model reaches when it is published.
        halt_share: A version is halted when more than this share of its reports is bad.
        halt_reports: Reports it takes before a version can be halted.
        timestamp_s: How long the timestamp is good for: within this time a device that is held at an old
            list notices. The running server signs it anew every quarter of it.
        snapshot_s: How long the snapshot is good for.
        targets_s: How long the list of models is good for.
        root_s: How long the root is good for; only the root key can prolong it.
    """

    rollout_percent: int = EVERYBODY
    halt_share: float = 0.5
    halt_reports: int = 3
    timestamp_s: int = DAY_S
    snapshot_s: int = 30 * DAY_S
    targets_s: int = 90 * DAY_S
    root_s: int = 10 * 365 * DAY_S

    def __post_init__(self) -> None:
        def check(fine: bool, name: str, expected: str) -> None:
            if not fine:
                raise ConfigError(f"releases: {name} is {getattr(self, name)}, expected {expected}")

        check(0 <= self.rollout_percent <= EVERYBODY, "rollout_percent", "0 to 100")
        check(0 <= self.halt_share <= 1, "halt_share", "0 to 1")
        check(1 <= self.halt_reports <= 1_000_000, "halt_reports", "1 to 1000000")
        for name in ("timestamp_s", "snapshot_s", "targets_s", "root_s"):
            check(1 <= getattr(self, name) <= MAX_LIFETIME_S, name, f"1 to {MAX_LIFETIME_S}")

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_fields(cls, found: Fields) -> ReleasePolicy:
        """Read what `to_json` gave; a setting that is left out keeps its default."""
        complete = Fields.of({**cls().to_json(), **found.rest()}, "releases")
        read: dict[str, Any] = {
            item.name: complete.number(item.name, 0, 1)
            if item.type == "float"
            else complete.integer(item.name)
            for item in fields(cls)
        }
        complete.done()
        return cls(**read)
