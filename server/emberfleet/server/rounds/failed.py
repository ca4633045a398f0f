"""Phase failed: no model came of the round; the next one starts from the same model."""

from __future__ import annotations

from dataclasses import replace

from emberfleet.core.errors import RoundError
from emberfleet.server.rounds.state import OVER, Phase, Round


def fail_round(round_: Round, why: str) -> Round:
    """End a round that is not over yet.

    Raises:
        RoundError: The round is over.
    """
    if round_.phase in OVER:
        raise RoundError(f"round {round_.number} is over ({round_.phase}) and cannot fail")
    return replace(round_, phase=Phase.FAILED, failure=why)
