"""Phase collect: devices train, updates come in, the silent are dropped, and time runs out."""

from __future__ import annotations

from dataclasses import replace

from emberfleet.core.messages import Reason, RefusedError
from emberfleet.server.rounds.failed import fail_round
from emberfleet.server.rounds.state import Phase, Round, require


def check_upload(round_: Round, device_id: str, now: float) -> None:
    """Whether the device may send an update to this round now.

    Raises:
        RefusedError: LATE, NOT_IN_COHORT or ALREADY_ACCEPTED.
    """
    if device_id not in round_.cohort:
        raise RefusedError(
            Reason.NOT_IN_COHORT,
            "this device was not asked in this round",
            "Ask for work and wait to be asked.",
        )
    if round_.phase is not Phase.COLLECT or now >= round_.deadline_at:
        raise RefusedError(
            Reason.LATE, f"round {round_.number} no longer takes updates", "Ask for work again."
        )
    if device_id in round_.accepted:
        raise RefusedError(
            Reason.ALREADY_ACCEPTED,
            "an update of this device counts in this round already",
            "Send one update per round.",
        )


def accept_update(round_: Round, device_id: str, sample_count: int, now: float) -> Round:
    """Count an update that was checked and stored; a device dropped too early is welcome back."""
    check_upload(round_, device_id, now)
    return replace(
        round_,
        accepted={**round_.accepted, device_id: sample_count},
        dropped=round_.dropped - {device_id},
        heard={**round_.heard, device_id: now},
    )


def hear_device(round_: Round, device_id: str, now: float) -> Round:
    """Note that a device of the cohort is alive."""
    check_upload(round_, device_id, now)
    return replace(round_, heard={**round_.heard, device_id: now}, dropped=round_.dropped - {device_id})


def drop_device(round_: Round, device_id: str, now: float) -> Round:
    """Note that a device gives up."""
    check_upload(round_, device_id, now)
    return replace(round_, dropped=round_.dropped | {device_id})


def advance(round_: Round, now: float) -> Round:
    """What time and silence do: the same round, or the next phase.

    The round goes on to apply when it has the updates it wants, or when nobody is waited for and
    there are at least the minimum; with fewer it fails.
    """
    require(round_, Phase.COLLECT)
    plan = round_.plan
    if plan.lease_s:
        silent = {device for device in round_.outstanding if now - round_.heard[device] > plan.lease_s}
        if silent:
            round_ = replace(round_, dropped=round_.dropped | silent)
    if len(round_.accepted) >= plan.cohort:
        return replace(round_, phase=Phase.APPLY)
    if round_.outstanding and now < round_.deadline_at:
        return round_
    if len(round_.accepted) >= plan.minimum:
        return replace(round_, phase=Phase.APPLY)
    return fail_round(
        round_,
        f"{len(round_.accepted)} updates came from {len(round_.cohort)} devices, expected {plan.minimum}",
    )
