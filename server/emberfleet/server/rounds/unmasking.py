"""From masked uploads and disclosed shares to the sum: secrets put together and checked, masks taken out.

A secret shows whether it is right: that of a survivor's own mask by the commitment in its advert, the key
of one that vanished by its public half. So any threshold of shares that gives the right one proves which
other shares are wrong, and whose.

Uploads are read one at a time: memory is one sum and one update. Masks are made by several threads, which run
at once because `cryptography` lets go of the interpreter meanwhile from version 50 on.
"""

from __future__ import annotations

import hmac
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final

from emberfleet.core.errors import FormatError, RoundError
from emberfleet.core.files import read_limited
from emberfleet.core.secure.agreement import MaskKey
from emberfleet.core.secure.answers import MaskedUpdate, max_masked_bytes
from emberfleet.core.secure.masking import UpdateSum, add_masked, add_masks, empty_sum, read_sum
from emberfleet.core.secure.messages import Advert
from emberfleet.core.secure.pairs import masks_left
from emberfleet.core.secure.shamir import Share, combine_shares
from emberfleet.core.secure.statements import commitment_of
from emberfleet.server.rounds.disclosing import needed
from emberfleet.server.rounds.state import Round

log = logging.getLogger(__name__)
SUBSETS: Final = 256
"""Sets of shares that are tried at random when leaving out one does not help."""
GROUP: Final = 512
"""Masks that are taken out between two looks at the clock."""
LOG_EVERY_S: Final = 5.0


class UnfitSharesError(RoundError):
    """Shares that do not give what a device committed to; a share to spare may tell whose fault it is.

    Attributes:
        culprits: Devices that are known to have sent what does not fit.
        hopeless: More shares would not help.
    """

    def __init__(self, text: str, culprits: tuple[str, ...], hopeless: bool) -> None:
        super().__init__(text)
        self.culprits = culprits
        self.hopeless = hopeless


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the shares gave.

    Attributes:
        by_position: The secrets that are needed.
        culprits: Devices that disclosed a wrong share of one.
    """

    by_position: Mapping[int, bytes] = field(repr=False)
    culprits: tuple[str, ...]


def recover_secrets(round_: Round) -> Secrets:
    """Put together every secret that is needed, and check it.

    Raises:
        UnfitSharesError: One cannot be told from the shares that came.
    """
    group, alive = round_.known_group, frozenset(round_.known_survivors.survivors)
    members, threshold = group.roster.members, group.graph.threshold
    shares: dict[int, list[Share]] = {position: [] for position in needed(round_)}
    for holder, disclosure in sorted(round_.disclosures.items()):
        for owner, value in chain(disclosure.own, disclosure.key):
            if owner in shares:
                shares[owner].append(Share.decode(value, holder + 1))
    found: dict[int, bytes] = {}
    liars: set[int] = set()
    unknown: list[int] = []
    for owner, held in shares.items():
        check = _check_own(round_.id, members[owner]) if owner in alive else _check_key(members[owner])
        trusted = [share for share in held if share.point - 1 not in liars]
        secret = _find_secret(trusted, threshold, check)
        if secret is None:
            unknown.append(owner)
            continue
        found[owner], proof = secret
        if proof is not None:
            liars |= {share.point - 1 for share in held if not _fits(share, proof, threshold)}
    culprits = {members[position].device_id for position in liars}
    if unknown:
        owners = {members[owner].device_id for owner in unknown if _agree(shares[owner], threshold, liars)}
        raise UnfitSharesError(
            f"the shares of {len(unknown)} devices do not give what these committed to",
            tuple(sorted(culprits | owners)),
            hopeless=bool(owners),
        )
    return Secrets(found, tuple(sorted(culprits)))


def sum_uploads(round_: Round, path_of: Callable[[str], Path], secrets: Secrets, parts: int = 0) -> UpdateSum:
    """Sum what the survivors sent, and take out the masks.

    Args:
        round_: In phase apply; its survivors are fixed.
        path_of: Where a device's upload lies.
        secrets: Of the round.
        parts: Threads that make masks; 0 for one per core.

    Raises:
        RoundError: Not what so many devices can have sent.
        FormatError, StorageError: An upload is no longer what was accepted.
    """
    group, survivors = round_.known_group, round_.known_survivors.survivors
    layout, clock = group.layout, _Progress(round_.number)
    total = empty_sum(layout)
    limit = max_masked_bytes(layout.size_bytes)
    for done, position in enumerate(survivors):
        body = read_limited(path_of(group.roster.ids[position]), limit)
        add_masked(total, MaskedUpdate.decode(body).packed, layout)
        clock.note("%d of %d updates summed", done + 1, len(survivors))
    members = [group.member(position) for position in range(len(group.roster.ids))]
    graph = [group.neighbours.get(position, ()) for position in range(len(members))]
    masks = masks_left(members, graph, survivors, secrets.by_position, group.context)
    parts = parts or os.cpu_count() or 1
    with ThreadPoolExecutor(parts) as threads:
        for begin in range(0, len(masks), GROUP):
            add_masks(total, masks[begin : begin + GROUP], threads, parts)
            clock.note("%d of %d masks taken out", min(begin + GROUP, len(masks)), len(masks))
    return read_sum(total, layout, len(survivors))


class _Progress:
    """Says now and then how far a long computation is."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._next = time.monotonic() + LOG_EVERY_S

    def note(self, text: str, done: int, of: int) -> None:
        if time.monotonic() >= self._next:
            log.info(f"round %d: {text}", self._number, done, of)
            self._next = time.monotonic() + LOG_EVERY_S


def _check_own(round_id: str, advert: Advert) -> Callable[[bytes], bool]:
    return lambda secret: hmac.compare_digest(
        commitment_of(secret, round_id, advert.device_id), advert.commitment
    )


def _check_key(advert: Advert) -> Callable[[bytes], bool]:
    def check(secret: bytes) -> bool:
        try:
            MaskKey.recover(secret, advert.mask_key)
        except FormatError:
            return False
        return True

    return check


def _find_secret(
    shares: Sequence[Share], threshold: int, check: Callable[[bytes], bool]
) -> tuple[bytes, Sequence[Share] | None] | None:
    """The secret, with the shares that proved it where the first ones did not; None: none of them do."""
    if len(shares) < threshold:
        return None
    for number, subset in enumerate(_subsets(shares, threshold)):
        try:
            secret = combine_shares(subset, threshold)
        except RoundError:
            continue
        if check(secret):
            return secret, subset if number else None
    return None


def _subsets(shares: Sequence[Share], threshold: int) -> Iterator[Sequence[Share]]:
    """Sets of as many shares as it takes: the first ones, each time with one left out, and some at random."""
    yield shares[:threshold]
    if len(shares) == threshold:
        return
    for left_out in range(threshold):
        yield [*shares[:left_out], *shares[left_out + 1 : threshold + 1]]
    generator = random.Random(len(shares))  # noqa: S311 - which sets are tried first is no secret
    for _ in range(SUBSETS):
        yield generator.sample(shares, threshold)


def _fits(share: Share, proof: Sequence[Share], threshold: int) -> bool:
    if share in proof:
        return True
    try:
        combine_shares([*proof, share], threshold)
    except RoundError:
        return False
    return True


def _agree(shares: Sequence[Share], threshold: int, liars: set[int]) -> bool:
    """Whether shares lie on one polynomial, one more than it takes: then their owner dealt them wrongly."""
    trusted = [share for share in shares if share.point - 1 not in liars]
    try:
        combine_shares(trusted, threshold)
    except RoundError:
        return False
    return len(trusted) > threshold
