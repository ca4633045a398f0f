"""What a round tells its devices between two of their messages.

Every answer is fixed when its phase begins. What all devices are told is encoded once.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from emberfleet.server.rounds.confirming import confirmations_of, survivor_position
from emberfleet.server.rounds.sharing import mailbox_of
from emberfleet.server.rounds.state import Phase, Round, check_member, position_of


class Answer(StrEnum):
    """What devices ask for, by the last word of its path."""

    ROSTER = "roster"
    SHARES = "shares"
    SURVIVORS = "survivors"
    CONFIRMATIONS = "confirmations"


FROM: Final = {
    Answer.ROSTER: Phase.SHARES,
    Answer.SHARES: Phase.COLLECT,
    Answer.SURVIVORS: Phase.CONFIRM,
    Answer.CONFIRMATIONS: Phase.UNMASK,
}
"""The phase from which on there is an answer."""


class Answers:
    """The answers of one round."""

    def __init__(self) -> None:
        self._encoded: dict[Answer, bytes] = {}

    def find(self, round_: Round, device_id: str, what: Answer) -> bytes:
        """The answer for a device, once its phase was reached.

        Raises:
            RefusedError: NOT_IN_COHORT; LATE: the round goes on without this device.
        """
        check_member(round_, device_id)
        if what is Answer.SHARES:
            return mailbox_of(round_, device_id).encode()
        check = position_of if what is Answer.ROSTER else survivor_position
        check(round_, device_id)
        if what not in self._encoded:
            self._encoded[what] = _encode(round_, what)
        return self._encoded[what]


def _encode(round_: Round, what: Answer) -> bytes:
    if what is Answer.ROSTER:
        return round_.known_graph.roster.encode()
    if what is Answer.SURVIVORS:
        return round_.known_survivors.encode()
    return confirmations_of(round_).encode()
