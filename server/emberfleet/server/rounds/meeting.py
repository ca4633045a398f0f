"""Phase keys: the devices that were drawn send the keys of this round; the roster is fixed."""

from __future__ import annotations

from dataclasses import replace

from emberfleet.core.errors import ConfigError, FormatError
from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.secure.group import Graph
from emberfleet.core.secure.messages import Advert, Roster
from emberfleet.server.rounds.failed import fail_round
from emberfleet.server.rounds.state import Phase, Round, check_takes, enter, require, twice


def accept_advert(round_: Round, device_id: str, advert: Advert, now: float) -> Round:
    """Take a device's keys.

    Raises:
        RefusedError: Not asked, too early or late, sent before, or another device's.
        SignatureError: Not signed by this device for this round and these terms.
        FormatError: A key that agrees on the same secret with everybody.
    """
    check_takes(round_, device_id, Phase.KEYS, now)
    if device_id in round_.adverts:
        raise twice("an advert")
    if advert.device_id != device_id or not advert.names_itself:
        raise RefusedError(Reason.MALFORMED, "the advert is another device's", "Send this device's own keys.")
    advert.verify(round_.id, round_.terms_digest)
    advert.check_keys()
    if advert.mask_key == advert.sealing_key:
        raise FormatError("advert: the keys for masks and for sealing are the same, expected two")
    return replace(
        round_,
        adverts={**round_.adverts, device_id: advert},
        declined=round_.declined - {device_id},
        heard={**round_.heard, device_id: now},
    )


def advance(round_: Round, now: float) -> Round:
    """Go on to the shares when all keys are there or time is up; with too few the round fails."""
    require(round_, Phase.KEYS)
    awaited = any(device not in round_.adverts and device not in round_.declined for device in round_.cohort)
    if awaited and now < round_.deadline_at:
        return round_
    if len(round_.adverts) < round_.plan.minimum:
        return fail_round(
            round_,
            f"{len(round_.adverts)} of {len(round_.cohort)} devices sent keys, "
            f"expected {round_.plan.minimum}",
        )
    after = fix_roster(round_, now)
    try:
        _ = after.known_graph.parameters
    except ConfigError as error:
        return fail_round(round_, str(error))
    return after


def fix_roster(round_: Round, now: float) -> Round:
    """The round in phase shares, with the roster of the keys that came."""
    require(round_, Phase.KEYS)
    roster = Roster.of(round_.id, round_.terms_digest, tuple(round_.adverts.values()))
    return enter(replace(round_, graph=Graph(roster, round_.terms)), Phase.SHARES, now)
