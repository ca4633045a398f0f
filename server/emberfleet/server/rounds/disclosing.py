"""Phase unmask: the survivors give back shares, of each neighbour's secrets one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace

from emberfleet.core.errors import FormatError
from emberfleet.core.secure.answers import Disclosure
from emberfleet.core.secure.shamir import Share
from emberfleet.server.rounds.confirming import survivor_position
from emberfleet.server.rounds.failed import fail_round
from emberfleet.server.rounds.state import Phase, Round, check_takes, enter, require, twice


def accept_disclosure(round_: Round, device_id: str, disclosure: Disclosure, now: float) -> Round:
    """Take a survivor's shares; what comes while the masks are taken out already may serve as proof.

    Raises:
        RefusedError: Not asked, too early or late, sent before, or not a survivor.
        FormatError: Another set of survivors, the wrong kind of share, a device that is no neighbour, or a
            number beyond the field.
    """
    if round_.phase is not Phase.APPLY or not _in_time(round_, now):
        check_takes(round_, device_id, Phase.UNMASK, now)
    position = survivor_position(round_, device_id)
    if position in round_.disclosures:
        raise twice("a disclosure")
    survivors = round_.known_survivors
    if disclosure.survivors_digest != survivors.digest:
        raise FormatError("disclosure: it is for another set of survivors than this round's")
    neighbours, alive = set(round_.known_group.neighbours[position]), set(survivors.survivors)
    _check_peers("own", disclosure.own, neighbours & alive)
    _check_peers("key", disclosure.key, neighbours - alive)
    given = Counter(round_.given)
    given.update(peer for peer, _ in (*disclosure.own, *disclosure.key))
    return replace(round_, disclosures={**round_.disclosures, position: disclosure}, given=dict(given))


def needed(round_: Round) -> Iterator[int]:
    """Positions whose secret is needed: the survivors, and the vanished with a surviving neighbour."""
    group, survivors = round_.known_group, round_.known_survivors
    yield from survivors.survivors
    alive = frozenset(survivors.survivors)
    for position in survivors.vanished:
        if not alive.isdisjoint(group.neighbours[position]):
            yield position


def advance(round_: Round, now: float) -> Round:
    """Go on when every secret has as many shares as it takes; when time is up and one has not, fail.

    A round whose shares did not fit together waits for all disclosures that may come: a share to spare
    tells who lied.
    """
    require(round_, Phase.UNMASK)
    all_in = len(round_.disclosures) == len(round_.known_survivors.survivors)
    if round_.patient and not all_in and now < round_.deadline_at:
        return round_
    threshold = round_.known_graph.threshold
    if all(round_.given.get(position, 0) >= threshold for position in needed(round_)):
        return enter(round_, Phase.APPLY, now)
    if not all_in and now < round_.deadline_at:
        return round_
    lacking = sum(round_.given.get(position, 0) < threshold for position in needed(round_))
    return fail_round(
        round_,
        f"of {lacking} devices fewer than {threshold} shares came back, "
        f"from {len(round_.disclosures)} of {len(round_.known_survivors.survivors)} survivors",
    )


def wait_for_more(round_: Round) -> Round:
    """Back from apply: shares did not fit together, and more may come."""
    require(round_, Phase.APPLY)
    entered = {Phase(phase): at for phase, at in round_.entered.items() if phase is not Phase.APPLY}
    return replace(round_, phase=Phase.UNMASK, entered=entered, patient=True)


def more_may_come(round_: Round, now: float) -> bool:
    """Whether disclosures are outstanding and there is time for them."""
    return _in_time(round_, now) and len(round_.disclosures) < len(round_.known_survivors.survivors)


def _in_time(round_: Round, now: float) -> bool:
    return now < round_.entered[Phase.UNMASK] + round_.plan.unmask_s


def _check_peers(kind: str, shares: tuple[tuple[int, bytes], ...], allowed: Collection[int]) -> None:
    for peer, value in shares:
        if peer not in allowed:
            raise FormatError(
                f"disclosure: a share '{kind}' of position {peer}, which must not be given here"
            )
        Share.decode(value, 1)
