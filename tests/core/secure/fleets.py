"""A whole round of secure sums in memory: devices, who vanishes, and what the server is left with."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from emberfleet.core.secure.agreement import MaskKey, RoundContext, rounding_seed
from emberfleet.core.secure.coordinates import Coordinates
from emberfleet.core.secure.layout import SumLayout
from emberfleet.core.secure.masking import Mask, mask_update
from emberfleet.core.secure.neighbours import harary_graph, permute
from emberfleet.core.secure.pairs import Member, masks_added, masks_left
from emberfleet.core.secure.rounding import round_change
from emberfleet.core.secure.shamir import Share, combine_shares, split_secret
from emberfleet.core.updates import TensorPlan, UpdatePlan

SEEDS = st.binary(min_size=32, max_size=32)


def plan_of(size: int, bits: int = 8) -> UpdatePlan:
    return UpdatePlan((TensorPlan("a", (size // 2,), 0.5), TensorPlan("b", (size - size // 2,), 2.0)), bits)


@dataclass
class Device:
    """What one device holds and sends in a round, by the functions under test."""

    device_id: str
    key: MaskKey
    secret: bytes
    kept: bytes
    change: np.ndarray
    samples: int

    @property
    def member(self) -> Member:
        return Member(self.device_id, self.key.public)

    def upload(self, neighbours: list[Device], layout: SumLayout, context: RoundContext) -> bytes:
        seed = rounding_seed(self.kept, self.device_id, context)
        members = [peer.member for peer in neighbours]
        masks = masks_added(self.device_id, self.key, self.secret, members, context)
        return mask_update(self.change, self.samples, layout, masks, seed)

    def integers(self, layout: SumLayout, context: RoundContext) -> np.ndarray:
        seed = rounding_seed(self.kept, self.device_id, context)
        return layout.ring.signed(round_change(self.change, self.samples, layout, seed)).astype(np.int64)


@dataclass
class Fleet:
    """A whole round: who takes part, who is whose neighbour, who vanished before uploading."""

    devices: list[Device]
    graph: tuple[tuple[int, ...], ...]
    dropped: frozenset[int]
    threshold: int
    layout: SumLayout
    context: RoundContext

    @property
    def alive(self) -> list[int]:
        return [index for index in range(len(self.devices)) if index not in self.dropped]

    def around(self, index: int) -> list[Device]:
        return [self.devices[other] for other in self.graph[index]]

    def uploads(self) -> list[bytes]:
        return [self.devices[i].upload(self.around(i), self.layout, self.context) for i in self.alive]

    def masks_left(self) -> list[Mask]:
        """What the server takes out, from shares of exactly those that are there."""
        return masks_left(self.members, self.graph, self.alive, self.secrets(), self.context)

    @property
    def members(self) -> list[Member]:
        return [device.member for device in self.devices]

    def secrets(self) -> dict[int, bytes]:
        """Of each device one: of a survivor that of its own mask, of the others their mask key's."""
        return {
            index: self.recovered(index, device.key.secret() if index in self.dropped else device.secret)
            for index, device in enumerate(self.devices)
        }

    def recovered(self, index: int, secret: bytes) -> bytes:
        points = [other + 1 for other in self.graph[index]]
        shares = split_secret(secret, self.threshold, points, random.Random(index).randrange)
        there = [share for share in shares if share.point - 1 not in self.dropped]
        return combine_shares([Share.decode(share.encode(), share.point) for share in there], self.threshold)

    def expected(self) -> tuple[np.ndarray, int]:
        total = sum(self.devices[i].integers(self.layout, self.context) for i in self.alive)
        weight = sum(self.layout.weigh(self.devices[i].samples) for i in self.alive)
        return np.asarray(total), weight


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    cohort = draw(st.integers(3, 8))
    degree = draw(st.sampled_from([*range(2, cohort - 1, 2), cohort - 1]))
    graph = harary_graph(permute(draw(SEEDS), cohort), degree)
    threshold = draw(st.integers(1, degree))
    dropped: set[int] = set()
    for index in draw(st.permutations(range(cohort)))[: draw(st.integers(0, cohort - 1))]:
        tried = dropped | {index}
        if all(len(set(around) - tried) >= threshold for around in graph):
            dropped = tried
    size = draw(st.integers(2, 60))
    share = draw(st.sampled_from([None, 0.4]))
    coordinates = None if share is None else Coordinates.of_share(draw(SEEDS), share)
    layout = SumLayout(
        plan_of(size, draw(st.sampled_from([8, 16]))), cohort, draw(st.integers(1, 300)), coordinates
    )
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    devices = [
        Device(
            numbers.bytes(16).hex(),
            MaskKey.generate(),
            numbers.bytes(32),
            numbers.bytes(32),
            numbers.uniform(-3, 3, size).astype(np.float32),
            int(numbers.integers(1, 500)),
        )
        for _ in range(cohort)
    ]
    context = RoundContext(numbers.bytes(16).hex(), numbers.bytes(32))
    return Fleet(devices, graph, frozenset(dropped), threshold, layout, context)
