"""A round as a value, and the phases it goes through.

====================  ================  ===============================================================
phase                 file              left when
====================  ================  ===============================================================
open                  opening.py        enough devices are there: the cohort is drawn
keys (secure)         meeting.py        all drawn sent their keys, or time is up: the roster is fixed
shares (secure)       sharing.py        all members sent their shares, or time is up: the group is fixed
collect               collecting.py     enough updates came, nobody is left, or time is up
confirm (secure)      confirming.py     all survivors signed who survived, or time is up
unmask (secure)       disclosing.py     every secret has as many shares as it takes, or time is up
apply                 applying.py       the mean is applied to the model
publish               publishing.py     the new model is signed and stored
done, failed          publishing.py,    never
                      failed.py
====================  ================  ===============================================================

Every transition is a pure function from a round, perhaps a message, and the time to the next round; which
function takes which message, and which moves which phase on, stands in `steps.py`. Reading clocks, drawing
keys, storing and answering are the coordinator's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Final

from emberfleet.core.errors import RoundError
from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.offers import Mode, RoundTerms
from emberfleet.core.secure.answers import Disclosure, Survivors
from emberfleet.core.secure.group import Graph, Group
from emberfleet.core.secure.messages import Advert, SharesMessage
from emberfleet.server.rounds.plan import RoundPlan


class Phase(StrEnum):
    """Where a round stands."""

    OPEN = "open"
    KEYS = "keys"
    SHARES = "shares"
    COLLECT = "collect"
    CONFIRM = "confirm"
    UNMASK = "unmask"
    APPLY = "apply"
    PUBLISH = "publish"
    DONE = "done"
    FAILED = "failed"


ORDER: Final[Mapping[Mode, tuple[Phase, ...]]] = {
    Mode.SECURE: tuple(phase for phase in Phase if phase is not Phase.FAILED),
    Mode.SEALED: (Phase.OPEN, Phase.COLLECT, Phase.APPLY, Phase.PUBLISH, Phase.DONE),
}
OVER: Final = frozenset({Phase.DONE, Phase.FAILED})


@dataclass(frozen=True)
class Round:
    """Everything the state machine knows about one round.

    Attributes:
        terms: What its devices agree on.
        terms_digest: Its digest, which every advert is signed for.
        plan: Its settings.
        entered: When each phase began.
        cohort: Devices asked, in the order drawn; empty while the round is open.
        declined: Devices that gave up; their place is not waited for.
        adverts: Secure: by device, as they came.
        graph: Secure: the roster and who is whose neighbour, once the roster is fixed.
        shares: Secure: by position.
        group: Secure: who takes part, once that is fixed.
        accepted: Samples behind each update that counts, by device; 1 in a secure round, which tells nobody.
        survivors: Secure: whose updates are in the sum, once that is fixed.
        confirmations: Secure: signatures by position.
        disclosures: Secure: by position.
        given: Secure: how many shares of each position's secret came back.
        patient: Secure: shares did not fit together, so all that may still come are waited for.
        culprits: Devices that sent what does not fit.
        failure: Why the round failed; empty unless it did.
        heard: When each device of the cohort last said anything; not kept, so a restarted server gives
            everybody a new lease.
    """

    terms: RoundTerms
    terms_digest: str
    plan: RoundPlan
    phase: Phase
    opened_at: float
    entered: Mapping[Phase, float] = field(default_factory=dict)
    cohort: tuple[str, ...] = ()
    declined: frozenset[str] = frozenset()
    adverts: Mapping[str, Advert] = field(default_factory=dict)
    graph: Graph | None = None
    shares: Mapping[int, SharesMessage] = field(default_factory=dict)
    group: Group | None = None
    accepted: Mapping[str, int] = field(default_factory=dict)
    survivors: Survivors | None = None
    confirmations: Mapping[int, bytes] = field(default_factory=dict)
    disclosures: Mapping[int, Disclosure] = field(default_factory=dict)
    given: Mapping[int, int] = field(default_factory=dict)
    culprits: tuple[str, ...] = ()
    failure: str = ""
    patient: bool = field(default=False, compare=False)
    heard: Mapping[str, float] = field(default_factory=dict, compare=False)

    @property
    def id(self) -> str:
        """The round's name: 32 hexadecimal digits."""
        return self.terms.round_id

    @property
    def number(self) -> int:
        """Counts the server's rounds from 1."""
        return self.terms.number

    @property
    def model_version(self) -> int:
        """The model that the round starts from."""
        return self.terms.model.version

    @property
    def mode(self) -> Mode:
        """How updates are protected."""
        return self.terms.mode

    @property
    def started_at(self) -> float | None:
        """When the cohort was drawn."""
        return self.entered.get(ORDER[self.mode][1])

    @cached_property
    def members(self) -> frozenset[str]:
        """The cohort as a set."""
        return frozenset(self.cohort)

    @property
    def deadline_at(self) -> float:
        """When the phase at hand ends at the latest.

        Raises:
            RoundError: It waits for no device's message.
        """
        lasts = {
            Phase.KEYS: self.plan.keys_s,
            Phase.SHARES: self.plan.shares_s,
            Phase.COLLECT: self.plan.deadline_s,
            Phase.CONFIRM: self.plan.confirm_s,
            Phase.UNMASK: self.plan.unmask_s,
        }
        if self.phase not in lasts:
            raise RoundError(f"round {self.number} has no deadline in phase {self.phase}")
        return self.entered[self.phase] + lasts[self.phase]

    @property
    def summed(self) -> tuple[str, ...]:
        """Devices whose update may come: the cohort; in a secure round, from the shares on, the group."""
        if self.group is None:
            return self.cohort
        return tuple(self.group.roster.ids[position] for position in self.group.participants)

    def silent(self, now: float) -> list[str]:
        """Devices whose update is wanted and that were not heard for longer than the lease."""
        lease_s = self.plan.lease_s
        if not lease_s:
            return []
        return [device for device in self.waiting if now - self.heard[device] > lease_s]

    @property
    def waiting(self) -> list[str]:
        """Devices that may still send their update."""
        return [
            device for device in self.summed if device not in self.accepted and device not in self.declined
        ]

    def outstanding(self, now: float) -> list[str]:
        """Devices whose update is waited for: they did not give up and were heard of late."""
        silent = set(self.silent(now))
        return [device for device in self.waiting if device not in silent]

    @property
    def missing(self) -> tuple[str, ...]:
        """Devices of the cohort whose update is not in the model, once the round is over."""
        return tuple(sorted(device for device in self.cohort if device not in self.accepted))

    @property
    def known_graph(self) -> Graph:
        """The graph.

        Raises:
            RoundError: The roster is not fixed.
        """
        if self.graph is None:
            raise RoundError(f"round {self.number} has no roster in phase {self.phase}")
        return self.graph

    @property
    def known_group(self) -> Group:
        """The group.

        Raises:
            RoundError: It is not fixed.
        """
        if self.group is None:
            raise RoundError(f"round {self.number} has no group in phase {self.phase}")
        return self.group

    @property
    def known_survivors(self) -> Survivors:
        """The survivors.

        Raises:
            RoundError: They are not fixed.
        """
        if self.survivors is None:
            raise RoundError(f"round {self.number} has no survivors in phase {self.phase}")
        return self.survivors


def require(round_: Round, *phases: Phase) -> None:
    """Raise `RoundError` unless the round stands in one of `phases`."""
    if round_.phase not in phases:
        expected = " or ".join(phases)
        raise RoundError(f"round {round_.number} is in phase {round_.phase}, expected {expected}")


def enter(round_: Round, phase: Phase, now: float) -> Round:
    """The round in its next phase, nothing else changed."""
    return replace(round_, phase=phase, entered={**round_.entered, phase: now})


def reached(round_: Round, phase: Phase) -> bool:
    """Whether the round, not failed, is in this phase or beyond."""
    order = ORDER[round_.mode]
    return round_.phase in order and order.index(round_.phase) >= order.index(phase)


def check_takes(round_: Round, device_id: str, phase: Phase, now: float) -> None:
    """Whether a device of the cohort may send what this phase waits for.

    Raises:
        RefusedError: NOT_IN_COHORT; OTHER_ROUND: the round is not so far; LATE: it is further.
    """
    check_member(round_, device_id)
    if round_.phase is phase and now < round_.deadline_at:
        return
    order = ORDER[round_.mode]
    if round_.phase in order and phase in order and order.index(round_.phase) < order.index(phase):
        raise RefusedError(
            Reason.OTHER_ROUND, f"round {round_.number} is not so far", "Send it when the round asks for it."
        )
    if phase not in order:
        raise RefusedError(
            Reason.OTHER_ROUND, f"round {round_.number} is a {round_.mode} round", "Do what its offer says."
        )
    raise late(round_, f"round {round_.number} no longer waits in phase {phase}")


def check_member(round_: Round, device_id: str) -> None:
    """Raise `RefusedError` (NOT_IN_COHORT) unless the device was asked."""
    if device_id not in round_.members:
        raise RefusedError(
            Reason.NOT_IN_COHORT,
            "this device was not asked in this round",
            "Ask for work and wait to be asked.",
        )


def position_of(round_: Round, device_id: str) -> int:
    """Where a device stands in the roster.

    Raises:
        RefusedError: LATE: its keys did not come in time.
    """
    position = round_.known_graph.roster.position_of(device_id)
    if position is None:
        raise late(round_, "this device's keys are not in the roster")
    return position


def late(round_: Round, what: str) -> RefusedError:
    """The answer to what comes too late for this round."""
    return RefusedError(Reason.LATE, what, "Ask for work again.")


def twice(what: str) -> RefusedError:
    """The answer to a second, different message of one kind."""
    return RefusedError(
        Reason.ALREADY_ACCEPTED, f"{what} of this device is here already", "Send it once per round."
    )
