"""Which masks are added and which are left: counted plainly, for every fleet, and what is missing is said."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings

from emberfleet.core.errors import FormatError, RoundError
from emberfleet.core.secure.agreement import MaskKey, RoundContext
from emberfleet.core.secure.masking import Mask
from emberfleet.core.secure.pairs import Member, masks_added, masks_left
from tests.core.secure.fleets import Fleet, fleets

CONTEXT = RoundContext("ab" * 16, bytes(range(32)))


@settings(max_examples=40, deadline=None)
@given(fleets())
def test_what_is_left_is_all_that_was_added_and_does_not_cancel(fleet: Fleet) -> None:
    added: Counter[bytes] = Counter()
    for index in fleet.alive:
        device, around = fleet.devices[index], [peer.member for peer in fleet.around(index)]
        for mask in masks_added(device.device_id, device.key, device.secret, around, fleet.context):
            added[mask.seed] += mask.sign
    left: Counter[bytes] = Counter()
    for mask in fleet.masks_left():
        left[mask.seed] -= mask.sign
    assert {seed: sign for seed, sign in added.items() if sign} == dict(left)
    assert len(left) == len(fleet.masks_left())


def test_a_device_adds_its_own_mask_and_one_per_neighbour_with_the_sign_of_its_id() -> None:
    key = MaskKey.generate()
    peers = [Member(name * 16, MaskKey.generate().public) for name in ("01", "ff")]
    own, first, second = masks_added("7f" * 16, key, bytes(32), peers, CONTEXT)
    assert (own.sign, first.sign, second.sign) == (1, -1, 1)
    assert first == Mask(key.pair_seed("7f" * 16, peers[0].device_id, peers[0].mask_key, CONTEXT), -1)
    assert len({own.seed, first.seed, second.seed}) == 3


def round_of_three() -> tuple[list[MaskKey], list[Member], tuple[tuple[int, ...], ...]]:
    keys = [MaskKey.generate() for _ in range(3)]
    members = [Member(f"{index:032x}", key.public) for index, key in enumerate(keys)]
    return keys, members, ((1, 2), (0, 2), (0, 1))


def test_a_missing_secret_is_named() -> None:
    keys, members, graph = round_of_three()
    secrets = {0: bytes(32), 1: bytes(32), 2: keys[2].secret()}
    assert len(masks_left(members, graph, {0, 1}, secrets, CONTEXT)) == 4
    for missing in range(3):
        with pytest.raises(RoundError, match=f"no secret of device {missing:032x}"):
            masks_left(members, graph, {0, 1}, {i: s for i, s in secrets.items() if i != missing}, CONTEXT)


def test_a_wrong_key_of_a_device_that_vanished_is_noticed() -> None:
    keys, members, graph = round_of_three()
    with pytest.raises(FormatError, match="another key than the roster names"):
        masks_left(members, graph, {0, 1}, {0: bytes(32), 1: bytes(32), 2: keys[1].secret()}, CONTEXT)


def test_nobody_asks_for_the_secret_of_one_whose_neighbours_all_vanished_too() -> None:
    keys = [MaskKey.generate() for _ in range(6)]
    members = [Member(f"{index:032x}", key.public) for index, key in enumerate(keys)]
    ring = tuple(((index - 1) % 6, (index + 1) % 6) for index in range(6))
    secrets = {0: bytes(32), 5: keys[5].secret(), 1: keys[1].secret()}
    assert len(masks_left(members, ring, {0}, secrets, CONTEXT)) == 3
