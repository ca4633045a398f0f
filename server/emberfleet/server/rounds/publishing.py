"""Phase publish: the new model is signed, stored and offered; the round is done."""

from __future__ import annotations

from dataclasses import replace

from emberfleet.server.rounds.state import Phase, Round, require


def finish_round(round_: Round) -> Round:
    """The round after its model was stored."""
    require(round_, Phase.PUBLISH)
    return replace(round_, phase=Phase.DONE)
