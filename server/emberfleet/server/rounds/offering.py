"""A round's terms, and the offers of a place in it."""

from __future__ import annotations

from emberfleet.core.offers import Mode, RoundOffer, RoundTerms
from emberfleet.core.sealing import SealingKey
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.rounds.publishing import PublishedModel
from emberfleet.server.rounds.state import Phase, Round


def make_terms(
    round_id: str,
    number: int,
    model: PublishedModel,
    plan: RoundPlan,
    key: SealingKey | None,
) -> RoundTerms:
    """What the devices of a round agree on.

    Args:
        round_id: 32 random hexadecimal digits.
        number: The round's.
        model: That it starts from.
        plan: The settings.
        key: Opens the updates of a sealed round; None in a secure one.

    Raises:
        ConfigError: The model has not what the plan wants trained.
    """
    return RoundTerms(
        round_id=round_id,
        number=number,
        model=model.info,
        update=plan.update_plan(model.opened.tensors, model.opened.scopes),
        training=plan.training_of(number),
        seed=plan.seed * 1_000_003 % (1 << 40) + number,
        secure=plan.secure_terms if plan.mode is Mode.SECURE else None,
        round_key=None if key is None else key.public,
    )


def make_offer(round_: Round, device_id: str, now: float) -> RoundOffer:
    """A place for one device, with the time that is left."""
    left = max(0.0, round_.deadline_at - now)
    sealed = round_.mode is Mode.SEALED
    return RoundOffer(
        terms=round_.terms,
        device_id=device_id,
        lease_s=round_.plan.lease_s,
        deadline_s=left if sealed else round_.plan.deadline_s,
        keys_s=0.0 if sealed else left,
    )


def offered_in(round_: Round) -> Phase:
    """The phase in which devices that ask for work get their offer."""
    return Phase.COLLECT if round_.mode is Mode.SEALED else Phase.KEYS
