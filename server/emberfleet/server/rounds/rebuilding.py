"""The state of a round from what is stored of it: its row, and its messages in the order they were accepted.

A message tells which phase the round was in, so where one does not fit the phase at hand, time had moved the
round on before it came; what a phase fixes when it begins follows from the messages before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from emberfleet.core.codec import Fields
from emberfleet.core.errors import EmberError, StorageError
from emberfleet.core.offers import RoundTerms
from emberfleet.server.rounds.collecting import note_declined
from emberfleet.server.rounds.opening import open_round, start
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.rounds.state import ORDER, Phase, Round
from emberfleet.server.rounds.steps import ENTER, STEPS, Kind, accept
from emberfleet.server.storage.database import RoundRow, StoredMessage


def row_of(round_: Round) -> RoundRow:
    """What is written down of a round that is not over."""
    survivors = () if round_.survivors is None else round_.survivors.survivors
    return RoundRow(
        id=round_.id,
        number=round_.number,
        model_version=round_.model_version,
        phase=round_.phase.value,
        opened_at=round_.opened_at,
        started_at=round_.started_at,
        plan=round_.plan.to_json(),
        terms=round_.terms.encode(),
        entered={phase.value: at for phase, at in round_.entered.items()},
        cohort=round_.cohort,
        survivors=survivors,
        culprits=round_.culprits,
        accepted=len(round_.accepted),
        failure=round_.failure,
    )


def final_row(round_: Round, now: float) -> RoundRow:
    """What is written down of a round that is over; nobody needs its terms any more."""
    return replace(row_of(round_), terms=b"", dropped=round_.missing, closed_at=now)


def rebuild(row: RoundRow, messages: Sequence[StoredMessage], now: float) -> Round:
    """The round as it was, with a new lease for everybody; what was being applied is applied anew.

    Raises:
        StorageError: What is stored does not fit together.
    """
    try:
        round_ = _fold(row, messages)
    except (EmberError, KeyError, ValueError) as error:
        raise StorageError(f"round {row.number} cannot be continued from what is stored: {error}") from error
    return replace(round_, heard=dict.fromkeys(round_.cohort, now))


def _fold(row: RoundRow, messages: Sequence[StoredMessage]) -> Round:
    terms = RoundTerms.decode(row.terms)
    plan = RoundPlan.from_fields(Fields.of(dict(row.plan), "round plan"))
    round_ = open_round(terms, plan, row.opened_at)
    last = Phase.APPLY if row.phase == Phase.PUBLISH else Phase(row.phase)
    if last is Phase.OPEN:
        return round_
    assert row.started_at is not None
    round_ = start(round_, row.cohort, row.started_at)
    for message in messages:
        kind = Kind(message.kind)
        if kind is Kind.DECLINE:
            # It was checked in a phase that it does not name, and means the same in all of them.
            round_ = note_declined(round_, message.device_id)
            continue
        while round_.phase not in STEPS[kind].phases:
            round_ = _enter_next(round_, row)
        round_ = accept(round_, kind, message.device_id, message.body, message.accepted_at)
    while round_.phase is not last:
        round_ = _enter_next(round_, row)
    found = () if round_.survivors is None else round_.survivors.survivors
    if found != row.survivors:
        raise StorageError(
            f"{len(found)} updates are stored, expected those of {len(row.survivors)} survivors"
        )
    return replace(round_, culprits=row.culprits)


def _enter_next(round_: Round, row: RoundRow) -> Round:
    order = ORDER[round_.mode]
    following = order[order.index(round_.phase) + 1]
    return ENTER[following](round_, row.entered[following.value])
