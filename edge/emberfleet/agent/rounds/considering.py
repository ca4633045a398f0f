"""Whether a device takes the place in a round that a signed offer gives it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from emberfleet.agent.rounds.checks import Check, CheckError
from emberfleet.core.errors import ConfigError
from emberfleet.core.messages import ModelInfo
from emberfleet.core.offers import (
    LEAST_CORRUPT_SHARE,
    MOST_DROPOUT_SHARE,
    Mode,
    RoundOffer,
)
from emberfleet.core.secure.parameters import choose_parameters


@dataclass(frozen=True, slots=True)
class Standing:
    """What a device holds an offer against.

    Attributes:
        model: Version, digest and size of the bundle at hand.
        over: Ids of rounds that it has finished or left.
        floor: Fewest updates that a sum it takes part in may have.
        allow_sealed: Whether it takes part in sealed rounds too.
    """

    device_id: str
    model: ModelInfo
    over: Collection[str] = ()
    floor: int = 3
    allow_sealed: bool = False


def consider_offer(offer: RoundOffer, standing: Standing) -> None:
    """Check an offer whose signature was checked.

    Raises:
        CheckError: This device does not take it.
    """
    terms = offer.terms
    number = terms.number
    if offer.device_id != standing.device_id:
        raise CheckError(Check.OTHER_DEVICE, number)
    if terms.model != standing.model:
        found = f"model {terms.model.version} ({terms.model.digest[:16]})"
        expected = f"{standing.model.version} ({standing.model.digest[:16]})"
        raise CheckError(Check.OTHER_MODEL, number, f"{found}, expected {expected}")
    if terms.round_id in standing.over:
        raise CheckError(Check.ROUND_IS_OVER, number)
    if terms.mode is Mode.SEALED:
        if not standing.allow_sealed:
            raise CheckError(Check.SEALED_ROUND, number)
        return
    assert terms.secure is not None
    if terms.secure.minimum < standing.floor:
        found = f"{terms.secure.minimum}, expected at least {standing.floor}"
        raise CheckError(Check.BELOW_FLOOR, number, found)
    if terms.secure.lax:
        found = f"{terms.secure.corrupt_share:g} corrupt, {terms.secure.dropout_share:g} vanish"
        expected = f"at least {LEAST_CORRUPT_SHARE:g}, at most {MOST_DROPOUT_SHARE:g}"
        raise CheckError(Check.LAX_TERMS, number, f"{found}, expected {expected}")
    try:
        choose_parameters(terms.secure.minimum, terms.secure.corrupt_share, terms.secure.dropout_share)
    except ConfigError as error:
        raise CheckError(Check.NO_GRAPH, number, str(error)) from error
