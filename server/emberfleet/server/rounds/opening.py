"""Phase open: wait until enough devices are there, then draw the cohort."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from emberfleet.server.rounds.cohort import draw_cohort
from emberfleet.server.rounds.plan import RoundPlan
from emberfleet.server.rounds.state import Phase, Round, require


def open_round(round_id: str, number: int, model_version: int, plan: RoundPlan, now: float) -> Round:
    """A new round on the published model."""
    return Round(round_id, number, model_version, plan, Phase.OPEN, opened_at=now)


def start_if_ready(round_: Round, present: Collection[str], now: float) -> Round:
    """Draw the cohort when enough devices are there; otherwise the same round, unchanged."""
    require(round_, Phase.OPEN)
    plan = round_.plan
    waited = now - round_.opened_at >= plan.pool_wait_s
    if len(present) < (plan.minimum if waited else plan.wanted_present):
        return round_
    cohort = draw_cohort(present, plan.asked, plan.seed, round_.number)
    return replace(
        round_, phase=Phase.COLLECT, started_at=now, cohort=cohort, heard=dict.fromkeys(cohort, now)
    )
