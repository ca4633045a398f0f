"""Which masks a device adds, and which the server takes out of the sum.

The rule stands here for both sides. A device adds its own mask, and its part of the mask with each
neighbour. Where both neighbours uploaded, their parts cancel. So in the sum remain the own masks of the
survivors and, for each pair of which one vanished, the survivor's part. A device's position is its place in
the roster.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from emberfleet.core.errors import RoundError
from emberfleet.core.secure.agreement import MaskKey, RoundContext, pair_sign, self_seed
from emberfleet.core.secure.masking import Mask


@dataclass(frozen=True, slots=True)
class Member:
    """A device in a round's roster: its id, and the public half of its mask key."""

    device_id: str
    mask_key: bytes


def masks_added(
    device_id: str, key: MaskKey, secret: bytes, neighbours: Sequence[Member], context: RoundContext
) -> list[Mask]:
    """What a device adds: its own mask, made from its secret of this round, and one per neighbour.

    Raises:
        FormatError: A neighbour's key is not one.
    """
    own = Mask(self_seed(secret, device_id, context), 1)
    return [own, *(_pair_mask(key, device_id, peer, context) for peer in neighbours)]


def masks_left(
    members: Sequence[Member],
    graph: Sequence[Sequence[int]],
    survivors: Collection[int],
    secrets: Mapping[int, bytes],
    context: RoundContext,
) -> list[Mask]:
    """The inverses of the masks that are left in the sum of the survivors' uploads.

    Args:
        members: The whole roster, those included that vanished.
        graph: The neighbours of each position.
        survivors: The positions whose uploads are in the sum.
        secrets: By position, put together from shares: a survivor's secret for its own mask, or the
            secret half of the mask key of one that vanished. Never both of one device.
        context: The round.

    Raises:
        RoundError: A secret is missing.
        FormatError: A mask key does not belong to the roster's public half: shares were wrong.
    """
    present, found = frozenset(survivors), []
    for position, member in enumerate(members):
        paired = [other for other in graph[position] if other in present]
        if position not in present and not paired:
            continue
        if position not in secrets:
            raise RoundError(f"secure sum: no secret of device {member.device_id}")
        if position in present:
            found.append(Mask(self_seed(secrets[position], member.device_id, context), 1).inverse())
            continue
        # The part of one that vanished is the inverse of the survivor's.
        key = MaskKey.recover(secrets[position], member.mask_key)
        found += [_pair_mask(key, member.device_id, members[other], context) for other in paired]
    return found


def _pair_mask(key: MaskKey, own_id: str, peer: Member, context: RoundContext) -> Mask:
    seed = key.pair_seed(own_id, peer.device_id, peer.mask_key, context)
    return Mask(seed, pair_sign(own_id, peer.device_id))
