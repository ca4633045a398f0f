"""Phase shares: every member of the roster leaves shares of its secrets with its neighbours."""

from __future__ import annotations

from dataclasses import replace

from emberfleet.core.errors import FormatError
from emberfleet.core.secure.group import Group
from emberfleet.core.secure.messages import Mailbox, SealedShare, SharesMessage
from emberfleet.server.rounds.failed import fail_round
from emberfleet.server.rounds.state import Phase, Round, check_takes, enter, late, position_of, require, twice


def accept_shares(round_: Round, device_id: str, message: SharesMessage, now: float) -> Round:
    """Take a member's shares.

    Raises:
        RefusedError: Not asked, too early or late, or sent before.
        FormatError: For another roster, or not for exactly its neighbours.
    """
    check_takes(round_, device_id, Phase.SHARES, now)
    graph, position = round_.known_graph, position_of(round_, device_id)
    if position in round_.shares:
        raise twice("a message with shares")
    if message.roster_digest != graph.roster.digest:
        raise FormatError("shares: they are for another roster than this round's")
    peers = tuple(share.peer for share in message.shares)
    if peers != graph.neighbours[position]:
        raise FormatError(
            f"shares: they are for {len(peers)} devices, expected this device's "
            f"{len(graph.neighbours[position])} neighbours, each once"
        )
    return replace(
        round_,
        shares={**round_.shares, position: message},
        declined=round_.declined - {device_id},
        heard={**round_.heard, device_id: now},
    )


def advance(round_: Round, now: float) -> Round:
    """Go on to the updates when all shares are there or time is up; with too few the round fails."""
    require(round_, Phase.SHARES)
    roster = round_.known_graph.roster
    awaited = any(
        position not in round_.shares and device not in round_.declined
        for position, device in enumerate(roster.ids)
    )
    if awaited and now < round_.deadline_at:
        return round_
    after = fix_group(round_, now)
    group = after.known_group
    expected = max(round_.plan.minimum, group.quorum)
    if len(group.participants) < expected:
        return fail_round(
            round_,
            f"{len(round_.shares)} of {len(roster.ids)} devices sent shares, of which "
            f"{len(group.participants)} can take part, expected {expected}",
        )
    return after


def fix_group(round_: Round, now: float) -> Round:
    """The round in phase collect, with the group of those whose shares came."""
    require(round_, Phase.SHARES)
    graph = round_.known_graph
    after = replace(round_, group=Group(graph, graph.participants(round_.shares)))
    return enter(replace(after, heard=dict.fromkeys(after.summed, now)), Phase.COLLECT, now)


def mailbox_of(round_: Round, device_id: str) -> Mailbox:
    """What a participant is told: who takes part, and its neighbours' shares for it.

    Raises:
        RefusedError: LATE: the device is not part of the group.
    """
    group, position = round_.known_group, position_of(round_, device_id)
    if position not in group.neighbours:
        raise late(
            round_, "this device is not part of the group: its shares, or its neighbours', did not come"
        )
    neighbours = round_.known_graph.neighbours
    found = []
    for sender in group.neighbours[position]:
        share = round_.shares[sender].shares[neighbours[sender].index(position)]
        found.append(SealedShare(sender, share.sealed, share.signature))
    return Mailbox(group.roster.digest, group.participants, tuple(found))
