"""The round at hand with what its value does not hold."""

from __future__ import annotations

from dataclasses import dataclass, field

from emberfleet.core.sealing import SealingKey
from emberfleet.server.rounds.answering import Answers
from emberfleet.server.rounds.journal import Journal
from emberfleet.server.rounds.state import Round


@dataclass(slots=True)
class Running:
    """The round at hand.

    Attributes:
        key: Opens the updates of a sealed round; None in a secure one.
        quarantined: Devices that are not drawn.
    """

    journal: Journal
    key: SealingKey | None
    quarantined: frozenset[str] = frozenset()
    answers: Answers = field(default_factory=Answers)

    @property
    def round(self) -> Round:
        """As stored."""
        return self.journal.round
