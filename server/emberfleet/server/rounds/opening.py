"""Phase open: wait until enough devices are there, then draw the cohort."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from emberfleet.core.offers import RoundTerms
from emberfleet.server.rounds.cohort import draw_cohort
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.rounds.state import ORDER, Phase, Round, enter, require


def open_round(terms: RoundTerms, plan: RoundPlan, now: float) -> Round:
    """A new round on the published model."""
    return Round(terms, terms.digest, plan, Phase.OPEN, opened_at=now, entered={Phase.OPEN: now})


def start_if_ready(
    round_: Round, present: Collection[str], now: float, quarantined: Collection[str] = ()
) -> Round:
    """Draw the cohort when enough devices are there; otherwise the same round, unchanged."""
    require(round_, Phase.OPEN)
    plan = round_.plan
    candidates = [device for device in present if device not in quarantined]
    waited = now - round_.opened_at >= plan.pool_wait_s
    if len(candidates) < (plan.minimum if waited else plan.wanted_present):
        return round_
    return start(round_, draw_cohort(candidates, plan.asked, plan.seed, round_.number), now)


def start(round_: Round, cohort: tuple[str, ...], now: float) -> Round:
    """Ask these devices: for their keys in a secure round, for their updates in a sealed one."""
    require(round_, Phase.OPEN)
    asked = replace(round_, cohort=cohort, heard=dict.fromkeys(cohort, now))
    return enter(asked, ORDER[round_.mode][1], now)
