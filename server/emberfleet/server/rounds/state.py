"""A round as a value, and the phases it goes through.

====================  =======================  ================================================
phase                 file                     left when
====================  =======================  ================================================
open                  opening.py               enough devices are there: the cohort is drawn
collect               collecting.py            enough updates came, nobody is left, or time is up
apply                 applying.py              the mean is applied to the model
publish               publishing.py            the new model is signed and stored
done, failed          publishing.py, failed.py  never
====================  =======================  ================================================

Every transition is a pure function from a round (and the time) to the next round. Reading clocks,
drawing keys, storing and answering are the coordinator's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from emberfleet.core.errors import RoundError
from emberfleet.server.rounds.plan import RoundPlan


class Phase(StrEnum):
    """Where a round stands."""

    OPEN = "open"
    COLLECT = "collect"
    APPLY = "apply"
    PUBLISH = "publish"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Round:
    """Everything the state machine knows about one round.

    Attributes:
        cohort: Devices asked, in the order drawn; empty while the round is open.
        accepted: Samples behind each update that counts.
        dropped: Devices that gave up or fell silent; their place is not waited for.
        heard: When each device of the cohort last said anything.
        failure: Why the round failed; empty unless it did.
    """

    id: str
    number: int
    model_version: int
    plan: RoundPlan
    phase: Phase
    opened_at: float
    started_at: float | None = None
    cohort: tuple[str, ...] = ()
    accepted: Mapping[str, int] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    heard: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""

    @property
    def deadline_at(self) -> float:
        """When the last update may come.

        Raises:
            RoundError: The round has not started.
        """
        if self.started_at is None:
            raise RoundError(f"round {self.number} has no deadline before its cohort is drawn")
        return self.started_at + self.plan.deadline_s

    @property
    def outstanding(self) -> list[str]:
        """Devices that may still send their update."""
        return [
            device for device in self.cohort if device not in self.accepted and device not in self.dropped
        ]

    @property
    def missing(self) -> tuple[str, ...]:
        """Devices of the cohort whose update is not in the model, once the round is over."""
        return tuple(sorted(device for device in self.cohort if device not in self.accepted))


def require(round_: Round, phase: Phase) -> None:
    """Raise `RoundError` unless the round stands in `phase`."""
    if round_.phase is not phase:
        raise RoundError(f"round {round_.number} is in phase {round_.phase}, expected {phase}")
