"""Phase confirm: the survivors sign which set of them was told to them."""

from __future__ import annotations

from dataclasses import replace

from emberfleet.core.errors import FormatError
from emberfleet.core.secure.answers import Confirmation, Confirmations
from emberfleet.server.rounds.failed import fail_round
from emberfleet.server.rounds.state import Phase, Round, check_takes, enter, late, position_of, require, twice


def survivor_position(round_: Round, device_id: str) -> int:
    """Where a survivor stands in the roster.

    Raises:
        RefusedError: LATE: the device's update is not in the sum.
    """
    position = position_of(round_, device_id)
    if device_id not in round_.accepted:
        raise late(round_, "this device's update is not in the sum")
    return position


def accept_confirmation(round_: Round, device_id: str, confirmation: Confirmation, now: float) -> Round:
    """Take a survivor's signature.

    Raises:
        RefusedError: Not asked, too early or late, sent before, or not a survivor.
        FormatError: Over another set.
        SignatureError: Not the device's.
    """
    check_takes(round_, device_id, Phase.CONFIRM, now)
    position = survivor_position(round_, device_id)
    if position in round_.confirmations:
        raise twice("a confirmation")
    if confirmation.survivors_digest != round_.known_survivors.digest:
        raise FormatError("confirmation: it is of another set of survivors than this round's")
    confirmation.verify(round_.known_graph.roster.members[position].public_key, round_.id)
    return replace(round_, confirmations={**round_.confirmations, position: confirmation.signature})


def advance(round_: Round, now: float) -> Round:
    """Go on when all confirmed, or time is up and there is a quorum; without one the round fails."""
    require(round_, Phase.CONFIRM)
    survivors = round_.known_survivors.survivors
    if len(round_.confirmations) < len(survivors) and now < round_.deadline_at:
        return round_
    quorum = round_.known_group.quorum
    if len(round_.confirmations) >= quorum:
        return enter(round_, Phase.UNMASK, now)
    return fail_round(
        round_,
        f"{len(round_.confirmations)} of {len(survivors)} survivors confirmed the set, expected {quorum}",
    )


def confirmations_of(round_: Round) -> Confirmations:
    """What the survivors are shown before they disclose anything."""
    return Confirmations(tuple(sorted(round_.confirmations.items())))
