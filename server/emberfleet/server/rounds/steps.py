"""Which function takes which message, and which moves which phase on: the table of transitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from emberfleet.core.messages import MAX_HEADER_BYTES, MAX_SMALL_BYTES, UpdateHeader
from emberfleet.core.offers import Mode
from emberfleet.core.secure.answers import Confirmation, Disclosure, MaskedHeader
from emberfleet.core.secure.messages import Advert, SharesMessage
from emberfleet.server.rounds import collecting, confirming, disclosing, meeting, sharing
from emberfleet.server.rounds.state import Phase, Round, enter


class Kind(StrEnum):
    """What a device sends in a round."""

    ADVERT = "advert"
    SHARES = "shares"
    UPDATE = "update"
    DECLINE = "decline"
    CONFIRMATION = "confirmation"
    DISCLOSURE = "disclosure"


@dataclass(frozen=True, slots=True)
class Step:
    """How one kind of message is taken.

    Attributes:
        phases: Where it is taken.
        decode: Reads its bytes; those of an update are its header.
        accept: The transition.
        limit: The largest body, in bytes.
    """

    phases: frozenset[Phase]
    decode: Callable[[Round, bytes], Any]
    accept: Callable[[Round, str, Any, float], Round]
    limit: Callable[[Round], int]


def _members(round_: Round) -> int:
    return len(round_.known_graph.roster.ids) if round_.graph is not None else len(round_.cohort)


def _header(round_: Round, data: bytes) -> UpdateHeader | MaskedHeader:
    return UpdateHeader.decode(data) if round_.mode is Mode.SEALED else MaskedHeader.decode(data)


def _small(_round: Round) -> int:
    return MAX_SMALL_BYTES


def _per_member(size: int) -> Callable[[Round], int]:
    return lambda round_: MAX_SMALL_BYTES + size * _members(round_)


def _decline(round_: Round, device_id: str, _message: None, now: float) -> Round:
    return collecting.drop_device(round_, device_id, now)


STEPS: Final[Mapping[Kind, Step]] = {
    Kind.ADVERT: Step(
        frozenset({Phase.KEYS}),
        lambda _round, data: Advert.decode(data),
        meeting.accept_advert,
        _small,
    ),
    Kind.SHARES: Step(
        frozenset({Phase.SHARES}),
        lambda round_, data: SharesMessage.decode(data, _members(round_)),
        sharing.accept_shares,
        _per_member(384),
    ),
    Kind.UPDATE: Step(
        frozenset({Phase.COLLECT}), _header, collecting.accept_update, lambda _round: MAX_HEADER_BYTES
    ),
    Kind.DECLINE: Step(
        frozenset({Phase.KEYS, Phase.SHARES, Phase.COLLECT}),
        lambda _round, _data: None,
        _decline,
        _small,
    ),
    Kind.CONFIRMATION: Step(
        frozenset({Phase.CONFIRM}),
        lambda _round, data: Confirmation.decode(data),
        confirming.accept_confirmation,
        _small,
    ),
    Kind.DISCLOSURE: Step(
        frozenset({Phase.UNMASK, Phase.APPLY}),
        lambda round_, data: Disclosure.decode(data, _members(round_)),
        disclosing.accept_disclosure,
        _per_member(64),
    ),
}

ADVANCE: Final[Mapping[Phase, Callable[[Round, float], Round]]] = {
    Phase.KEYS: meeting.advance,
    Phase.SHARES: sharing.advance,
    Phase.COLLECT: collecting.advance,
    Phase.CONFIRM: confirming.advance,
    Phase.UNMASK: disclosing.advance,
}

ENTER: Final[Mapping[Phase, Callable[[Round, float], Round]]] = {
    Phase.SHARES: meeting.fix_roster,
    Phase.COLLECT: sharing.fix_group,
    Phase.CONFIRM: collecting.fix_survivors,
    Phase.UNMASK: lambda round_, now: enter(round_, Phase.UNMASK, now),
    Phase.APPLY: lambda round_, now: enter(round_, Phase.APPLY, now),
}
"""What a phase fixes when it begins, whatever made it begin."""


def accept(round_: Round, kind: Kind, device_id: str, body: bytes, now: float) -> Round:
    """The round after a message.

    Raises:
        RefusedError, FormatError, SignatureError: Nothing of it counts.
    """
    step = STEPS[kind]
    return step.accept(round_, device_id, step.decode(round_, body), now)


def advance(round_: Round, now: float) -> Round:
    """The round after all that time and what it holds make of it: the same one where nothing does."""
    while round_.phase in ADVANCE:
        after = ADVANCE[round_.phase](round_, now)
        if after is round_:
            break
        round_ = after
    return round_


def due_at(round_: Round) -> float | None:
    """When `advance` may do something without a message; None: never."""
    if round_.phase is Phase.OPEN:
        return round_.opened_at + round_.plan.pool_wait_s
    if round_.phase not in ADVANCE:
        return None
    found = round_.deadline_at
    if round_.phase is Phase.COLLECT and round_.plan.lease_s:
        heard = [round_.heard[device] for device in round_.waiting]
        found = min([found, *(at + round_.plan.lease_s for at in heard)])
    return found
