"""Phase collect: devices train, updates come in, the silent are not waited for, and time runs out."""

from __future__ import annotations

from dataclasses import replace

from emberfleet.core.messages import Reason, RefusedError, UpdateHeader
from emberfleet.core.offers import Mode
from emberfleet.core.secure.answers import MaskedHeader, Survivors
from emberfleet.server.rounds.failed import fail_round
from emberfleet.server.rounds.state import (
    OVER,
    Phase,
    Round,
    check_member,
    check_takes,
    enter,
    late,
    position_of,
    require,
    twice,
)


def check_upload(round_: Round, device_id: str, now: float) -> None:
    """Whether the device may send an update to this round now.

    Raises:
        RefusedError: NOT_IN_COHORT, OTHER_ROUND (the round is not so far), LATE or ALREADY_ACCEPTED.
    """
    check_takes(round_, device_id, Phase.COLLECT, now)
    if round_.group is not None and position_of(round_, device_id) not in round_.group.neighbours:
        raise late(round_, "this device is not part of the group")
    if device_id in round_.accepted:
        raise twice("an update")


def accept_update(round_: Round, device_id: str, header: UpdateHeader | MaskedHeader, now: float) -> Round:
    """Count an update that was checked and stored; a device that gave up too early is welcome back.

    Raises:
        RefusedError: As `check_upload`; or the header names another round, device, model or group.
    """
    check_upload(round_, device_id, now)
    check_header(round_, device_id, header)
    samples = header.sample_count if isinstance(header, UpdateHeader) else 1
    return replace(
        round_,
        accepted={**round_.accepted, device_id: samples},
        declined=round_.declined - {device_id},
        heard={**round_.heard, device_id: now},
    )


def check_header(round_: Round, device_id: str, header: UpdateHeader | MaskedHeader) -> None:
    """Raise `RefusedError` unless an update says of itself what this round and device are."""
    if header.round_id != round_.id:
        raise RefusedError(
            Reason.OTHER_ROUND,
            "the update is not of the round at hand",
            "Ask for work and send that round's update.",
        )
    if header.device_id != device_id:
        raise RefusedError(
            Reason.MALFORMED, "the update names another device", "Send this device's own update."
        )
    if header.model_version != round_.model_version:
        raise RefusedError(
            Reason.OTHER_MODEL,
            f"the update is for model {header.model_version}, expected {round_.model_version}",
            "Fetch the published model and ask for work again.",
        )
    if isinstance(header, MaskedHeader) and header.group_digest != round_.known_group.digest:
        raise RefusedError(
            Reason.OTHER_ROUND, "the update is masked for another group", "Ask for work again."
        )


def hear_device(round_: Round, device_id: str, now: float) -> Round:
    """Note that a device of the cohort is alive.

    Raises:
        RefusedError: NOT_IN_COHORT; LATE: the round no longer waits for its update.
    """
    check_member(round_, device_id)
    if round_.phase in (Phase.KEYS, Phase.SHARES):
        return replace(round_, heard={**round_.heard, device_id: now})
    check_upload(round_, device_id, now)
    return replace(round_, heard={**round_.heard, device_id: now})


def drop_device(round_: Round, device_id: str, now: float) -> Round:
    """Note that a device gives up.

    Raises:
        RefusedError: NOT_IN_COHORT; LATE or ALREADY_ACCEPTED: it can no longer.
    """
    check_member(round_, device_id)
    if round_.phase in OVER or now >= round_.deadline_at:
        raise late(round_, f"round {round_.number} no longer waits for this device")
    if device_id in round_.accepted:
        raise twice("an update")
    return note_declined(round_, device_id)


def note_declined(round_: Round, device_id: str) -> Round:
    """The round without waiting for a device."""
    return replace(round_, declined=round_.declined | {device_id})


def advance(round_: Round, now: float) -> Round:
    """What time and silence do: the same round, or the next phase.

    The round goes on when it has the updates it wants, or when nobody is waited for and there are at least
    the minimum; with fewer it fails. A secure round goes on only with survivors that can be unmasked: else
    it waits for those that fell silent too, until time is up.
    """
    require(round_, Phase.COLLECT)
    plan = round_.plan
    if len(round_.accepted) < plan.cohort and now < round_.deadline_at and round_.outstanding(now):
        return round_
    if round_.mode is Mode.SEALED:
        if len(round_.accepted) >= plan.minimum:
            return enter(round_, Phase.APPLY, now)
    elif round_.known_group.can_end(_positions(round_)):
        return fix_survivors(round_, now)
    elif now < round_.deadline_at and round_.waiting:
        return round_
    return fail_round(round_, _shortfall(round_))


def fix_survivors(round_: Round, now: float) -> Round:
    """The round in phase confirm: from here on the set of those in the sum is fixed."""
    require(round_, Phase.COLLECT)
    group, alive = round_.known_group, _positions(round_)
    vanished = tuple(sorted(set(group.participants) - set(alive)))
    return enter(replace(round_, survivors=Survivors(group.digest, alive, vanished)), Phase.CONFIRM, now)


def _positions(round_: Round) -> tuple[int, ...]:
    return tuple(sorted(position_of(round_, device) for device in round_.accepted))


def _shortfall(round_: Round) -> str:
    said = f"{len(round_.accepted)} updates came from {len(round_.summed)} devices, expected "
    if round_.group is None:
        return f"{said}{round_.plan.minimum}"
    expected = max(round_.plan.minimum, round_.group.quorum)
    if len(round_.accepted) < expected:
        return f"{said}{expected}"
    lost = len(round_.group.lost(_positions(round_)))
    return f"{said}more: {lost} devices have too few neighbours left to take out their masks"
