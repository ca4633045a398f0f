from __future__ import annotations

import re
from dataclasses import replace

import pytest

from emberfleet.agent.rounds.checks import Check, CheckError
from emberfleet.agent.rounds.considering import Standing, consider_offer
from emberfleet.core.offers import RoundOffer
from tests.agent.rounds.test_sealed import OFFER as SEALED
from tests.agent.rounds.world import MODEL, ROUND, terms_of

DEVICE = "d" * 32
OFFER = RoundOffer(terms_of(), DEVICE, 5.0, 60.0, 10.0)
STANDING = Standing(DEVICE, MODEL)
REFUSED: dict[str, tuple[RoundOffer, Standing, Check]] = {
    "another device": (OFFER, replace(STANDING, device_id="e" * 32), Check.OTHER_DEVICE),
    "an older model": (OFFER, replace(STANDING, model=replace(MODEL, version=3)), Check.OTHER_MODEL),
    "another digest": (OFFER, replace(STANDING, model=replace(MODEL, digest="0" * 64)), Check.OTHER_MODEL),
    "a round that is over": (OFFER, replace(STANDING, over=("1" * 32, ROUND)), Check.ROUND_IS_OVER),
    "a minimum of two": (replace(OFFER, terms=terms_of(minimum=2)), STANDING, Check.BELOW_FLOOR),
    "a floor of four": (OFFER, replace(STANDING, floor=4), Check.BELOW_FLOOR),
    "a floor of one": (
        replace(OFFER, terms=terms_of(minimum=2)),
        replace(STANDING, floor=1),
        Check.NO_GRAPH,
    ),
    "nobody corrupt": (replace(OFFER, terms=terms_of(corrupt_share=0.0)), STANDING, Check.LAX_TERMS),
    "nearly all vanish": (replace(OFFER, terms=terms_of(dropout_share=0.9)), STANDING, Check.LAX_TERMS),
    "half corrupt": (
        replace(OFFER, terms=terms_of(minimum=9, corrupt_share=0.8)),
        STANDING,
        Check.NO_GRAPH,
    ),
    "a sealed round": (
        SEALED,
        Standing(DEVICE, SEALED.terms.model),
        Check.SEALED_ROUND,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_offer_that_is_not_for_this_device_now_is_refused_by_name(case: str) -> None:
    offer, standing, check = REFUSED[case]
    with pytest.raises(CheckError, match=re.escape(check.value)) as caught:
        consider_offer(offer, standing)
    assert caught.value.check is check


def test_offers_of_both_modes_are_taken_unless_the_owner_says_otherwise() -> None:
    consider_offer(OFFER, STANDING)
    consider_offer(OFFER, replace(STANDING, allow_sealed=True))
    consider_offer(SEALED, Standing(DEVICE, SEALED.terms.model, floor=100, allow_sealed=True))
