"""Masked sums: masks cancel whoever drops out, the sum is exact, and what is wrong is noticed."""

from __future__ import annotations

import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberfleet.core.errors import FormatError, RoundError, ShapeError
from emberfleet.core.secure.agreement import MaskKey, RoundContext, pair_sign, rounding_seed, self_seed
from emberfleet.core.secure.coordinates import Coordinates
from emberfleet.core.secure.layout import SumLayout
from emberfleet.core.secure.masking import (
    Mask,
    add_masked,
    add_masks,
    empty_sum,
    mask_update,
    read_sum,
    sum_masks,
)
from emberfleet.core.secure.neighbours import harary_graph, permute
from emberfleet.core.secure.packing import BLOCK, unpack
from emberfleet.core.secure.ring import Ring
from emberfleet.core.secure.rounding import round_change
from emberfleet.core.secure.shamir import Share, combine_shares, split_secret
from emberfleet.core.updates import TensorPlan, UpdatePlan, unflatten_update
from tests.core.secure import twins

SEED = bytes(range(32))
SEEDS = st.binary(min_size=32, max_size=32)
MASKS = st.lists(st.builds(Mask, SEEDS, st.sampled_from([1, -1])), max_size=4)


def plan_of(size: int, bits: int = 8) -> UpdatePlan:
    return UpdatePlan((TensorPlan("a", (size // 2,), 0.5), TensorPlan("b", (size - size // 2,), 2.0)), bits)


@dataclass
class Device:
    """What one device holds and sends in a round, by the functions under test."""

    device_id: str
    key: MaskKey
    secret: bytes
    change: np.ndarray
    samples: int

    def masks(self, neighbours: list[Device], context: RoundContext) -> list[Mask]:
        own = Mask(self_seed(self.secret, self.device_id, context), 1)
        return [own, *(pair_mask(self.key, self.device_id, peer, context) for peer in neighbours)]

    def upload(self, neighbours: list[Device], layout: SumLayout, context: RoundContext) -> bytes:
        seed = rounding_seed(self.secret, self.device_id, context)
        return mask_update(self.change, self.samples, layout, self.masks(neighbours, context), seed)

    def integers(self, layout: SumLayout, context: RoundContext) -> np.ndarray:
        seed = rounding_seed(self.secret, self.device_id, context)
        return layout.ring.signed(round_change(self.change, self.samples, layout, seed)).astype(np.int64)


def pair_mask(key: MaskKey, own_id: str, peer: Device, context: RoundContext) -> Mask:
    seed = key.pair_seed(own_id, peer.device_id, peer.key.public, context)
    return Mask(seed, pair_sign(own_id, peer.device_id))


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
        found = []
        for index, device in enumerate(self.devices):
            gone = index in self.dropped
            secret = self.recovered(index, device.key.secret() if gone else device.secret)
            if gone:
                key = MaskKey.recover(secret, device.key.public)
                present = [self.devices[other] for other in self.graph[index] if other not in self.dropped]
                # The survivors applied the opposite sign of what the vanished device would have.
                found += [pair_mask(key, device.device_id, peer, self.context) for peer in present]
            else:
                found.append(Mask(self_seed(secret, device.device_id, self.context), 1).inverse())
        return found

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
            numbers.uniform(-3, 3, size).astype(np.float32),
            int(numbers.integers(1, 500)),
        )
        for _ in range(cohort)
    ]
    context = RoundContext(numbers.bytes(16).hex(), numbers.bytes(32))
    return Fleet(devices, graph, frozenset(dropped), threshold, layout, context)


@settings(max_examples=60, deadline=None)
@given(fleets(), st.randoms(use_true_random=False))
def test_masks_cancel_for_every_fleet_and_drop_out_and_the_sum_is_exact(
    fleet: Fleet, chance: random.Random
) -> None:
    layout, uploads, total = fleet.layout, fleet.uploads(), empty_sum(fleet.layout)
    chance.shuffle(uploads)
    for upload in uploads:
        add_masked(total, upload, layout)
    add_masks(total, fleet.masks_left())
    integers, weight = fleet.expected()
    assert layout.ring.signed(total)[: layout.values].tolist() == integers.tolist()
    found = read_sum(total, layout, len(uploads))
    assert found.weight == weight
    mean = np.zeros(layout.plan.size)
    mean[slice(None) if layout.chosen is None else layout.chosen] = integers * (layout.heaviest / weight)
    np.testing.assert_array_equal(found.mean, mean)


@settings(max_examples=25, deadline=None)
@given(fleets())
def test_the_mean_is_near_the_weighted_mean_of_clipped_changes(fleet: Fleet) -> None:
    layout, total = fleet.layout, empty_sum(fleet.layout)
    for upload in fleet.uploads():
        add_masked(total, upload, layout)
    add_masks(total, fleet.masks_left())
    found = unflatten_update(read_sum(total, layout, len(fleet.alive)).mean, layout.plan)
    weights = [layout.weigh(fleet.devices[i].samples) for i in fleet.alive]
    for tensor, span in layout.plan.spans():
        changes = np.stack([fleet.devices[i].change[span] for i in fleet.alive]).astype(np.float64)
        exact = np.average(np.clip(changes, -tensor.clip, tensor.clip), axis=0, weights=weights)
        if layout.chosen is not None:
            taken = np.isin(np.arange(span.start, span.stop), layout.chosen)
            assert (found[tensor.name][~taken] == 0).all()
            exact = np.where(taken, exact, 0)
        # Each device is within a step of its share, and shares are of the heaviest weight.
        most = layout.plan.step(tensor) * len(weights) * layout.heaviest / sum(weights)
        assert np.abs(found[tensor.name] - exact).max(initial=0.0) <= most * 1.01


@settings(max_examples=15, deadline=None)
@given(fleets(), st.integers(0, 100))
def test_one_mask_left_in_the_sum_leaves_noise(fleet: Fleet, which: int) -> None:
    layout, total = fleet.layout, empty_sum(fleet.layout)
    for upload in fleet.uploads():
        add_masked(total, upload, layout)
    left = fleet.masks_left()
    left.pop(which % len(left))
    add_masks(total, left)
    assert (
        layout.ring.signed(total)[: layout.values].tolist() != fleet.expected()[0].tolist()
        or layout.values == 0
    )


def test_a_sum_with_a_mask_in_it_is_not_read() -> None:
    layout = SumLayout(plan_of(500), 100, 50)
    total = empty_sum(layout)
    masks = [Mask(SEED, 1), Mask(bytes(32), -1)]
    add_masked(total, mask_update(np.ones(500, np.float32), 7, layout, masks, SEED), layout)
    add_masks(total, [masks[0].inverse()])
    with pytest.raises(RoundError, match="not what 1 devices can have sent"):
        read_sum(total, layout, 1)
    add_masks(total, [masks[1].inverse()])
    assert read_sum(total, layout, 1).weight == 7


@given(MASKS, st.integers(2, 80), st.sampled_from([3, 100, 1000]), SEEDS, st.integers(1, 30))
def test_what_a_device_sends_is_the_plain_twins_bytes(
    masks: list[Mask], size: int, devices: int, seed: bytes, samples: int
) -> None:
    layout = SumLayout(plan_of(size), devices, heaviest=20)
    change = np.random.default_rng(size).uniform(-1, 1, size).astype(np.float32)
    clips = [tensor.clip for tensor in layout.plan.tensors for _ in range(tensor.size)]
    weight = min(samples, 20)
    vector = [*twins.rounded(change.tolist(), clips, weight / 20, 8, seed), weight]
    for mask in masks:
        drawn = twins.numbers(mask.seed, len(vector), layout.ring.word.itemsize)
        vector = [value + mask.sign * number for value, number in zip(vector, drawn, strict=True)]
    assert mask_update(change, samples, layout, masks, seed) == twins.pack(vector, layout.ring)


@pytest.mark.parametrize("devices", [100, 1000], ids=["16-bit words", "32-bit words"])
def test_large_vectors_are_masked_alike_block_by_block_and_at_once(devices: int) -> None:
    size = 2 * BLOCK + 1001
    layout = SumLayout(plan_of(size), devices, 500)
    masks = [Mask(SEED, 1), Mask(bytes(32), -1), Mask(b"\x01" * 32, -1)]
    change = np.random.default_rng(1).uniform(-1, 1, size).astype(np.float32)
    sent = unpack(mask_update(change, 300, layout, masks, SEED), layout.size, layout.ring)
    plain = empty_sum(layout)
    plain[: layout.values] = round_change(change, 300, layout, SEED)
    plain[layout.values :] = layout.write_weight(300)
    expected = plain + sum_masks(masks, layout.ring.word, 0, layout.size)
    assert (sent == expected % (1 << layout.ring.width)).all()


@given(MASKS, st.integers(0, 5), st.integers(0, 150), st.sampled_from([3, 1000]))
def test_masks_sum_to_the_plain_twins_from_any_place(
    masks: list[Mask], blocks: int, count: int, devices: int
) -> None:
    ring, begin = Ring(8, devices), 64 * blocks
    expected = [0] * count
    for mask in masks:
        drawn = twins.numbers(mask.seed, begin + count, ring.word.itemsize)[begin:]
        expected = [total + mask.sign * number for total, number in zip(expected, drawn, strict=True)]
    found = sum_masks(masks, ring.word, begin, count)
    assert found.tolist() == [value % (1 << ring.word_bits) for value in expected]


@pytest.mark.parametrize("parts", [2, 3, 50])
@pytest.mark.parametrize("size", [1, 40_000, 700_000])
def test_threads_share_the_work_without_changing_the_sum(parts: int, size: int) -> None:
    masks = [Mask(bytes([index]) * 32, (-1) ** index) for index in range(5)]
    alone = np.arange(size).astype("<u4")
    together = alone.copy()
    add_masks(alone, masks)
    with ThreadPoolExecutor(2) as threads:
        add_masks(together, masks, threads, parts)
    assert (alone == together).all()


@given(MASKS, st.integers(1, 50))
def test_a_masks_inverse_takes_it_out(masks: list[Mask], count: int) -> None:
    total = np.arange(count).astype("<u2")
    add_masks(total, masks)
    add_masks(total, [mask.inverse() for mask in masks])
    assert total.tolist() == list(range(count))


def test_the_largest_sum_of_the_largest_cohort_is_read() -> None:
    """65,536 devices that all send the largest integer: the sum is doubled sixteen times instead."""
    for sign in (1, -1):
        layout = SumLayout(UpdatePlan((TensorPlan("a", (3,), 1.0),), 16), 65536)
        total = empty_sum(layout)
        add_masked(total, mask_update(np.full(3, sign * 9, np.float32), 1, layout, [], SEED), layout)
        total *= total.dtype.type(65536)
        found = read_sum(total, layout, 65536)
        assert found.mean.tolist() == [sign * 32767.0] * 3
        assert found.weight == 65536


def test_the_same_arguments_give_the_same_bytes() -> None:
    layout = SumLayout(plan_of(100), 5, 9)
    change, masks = np.full(100, 0.1001, np.float32), [Mask(bytes(32), 1)]
    assert mask_update(change, 3, layout, masks, SEED) == mask_update(change, 3, layout, masks, SEED)


@pytest.mark.parametrize("change", [-1, 1, 100])
def test_an_upload_of_another_length_leaves_the_sum_as_it_was(change: int) -> None:
    layout = SumLayout(plan_of(100), 5)
    upload = mask_update(np.ones(100, np.float32), 1, layout, [Mask(SEED, 1)], SEED)
    total = empty_sum(layout)
    with pytest.raises(ShapeError, match=f"expected {layout.size_bytes}"):
        add_masked(total, upload[:change] if change < 0 else upload + bytes(change), layout)
    assert not total.any()


def test_an_upload_with_bits_that_stand_for_nothing_leaves_the_sum_as_it_was() -> None:
    layout = SumLayout(plan_of(BLOCK + 5), 5)
    upload = bytearray(mask_update(np.ones(BLOCK + 5, np.float32), 1, layout, [Mask(SEED, 1)], SEED))
    upload[-1] |= 0x80
    total = empty_sum(layout)
    with pytest.raises(FormatError, match="something else than zeros"):
        add_masked(total, bytes(upload), layout)
    assert not total.any()


def sum_of(layout: SumLayout, values: list[int], digits: list[int]) -> np.ndarray:
    return np.array([*values, *digits], np.int64).astype(layout.ring.word)


@pytest.mark.parametrize(
    ("values", "digits", "contributors"),
    [
        ([382, 0], [30], 3), ([-382, 0], [30], 3), ([0, 0], [2], 3), ([0, 0], [31], 3), ([0, 0], [-1], 3),
        ([200, 0], [3], 3),
    ],
)  # fmt: skip
def test_sums_that_no_devices_can_have_sent_are_refused(
    values: list[int], digits: list[int], contributors: int
) -> None:
    layout = SumLayout(plan_of(2), 8, heaviest=10)
    with pytest.raises(RoundError, match="Nothing of this round can be used"):
        read_sum(sum_of(layout, values, digits), layout, contributors)


def test_sums_at_the_edge_of_what_devices_can_send_are_read() -> None:
    layout = SumLayout(plan_of(2), 8, heaviest=10)
    assert read_sum(sum_of(layout, [381, -381], [30]), layout, 3).mean.tolist() == [127.0, -127.0]
    assert read_sum(sum_of(layout, [0, 1], [3]), layout, 3).weight == 3


@pytest.mark.parametrize("contributors", [0, 9])
def test_a_sum_of_nobody_or_of_more_than_the_cohort_is_refused(contributors: int) -> None:
    layout = SumLayout(plan_of(2), 8)
    with pytest.raises(RoundError, match="of 1 to 8"):
        read_sum(sum_of(layout, [0, 0], [1]), layout, contributors)
    with pytest.raises(RoundError, match=r"expected \(3,\)"):
        read_sum(empty_sum(layout)[:2], layout, 1)


@pytest.mark.parametrize(("size", "sign"), [(31, 1), (33, 1), (32, 0), (32, 2)])
def test_a_mask_of_another_seed_or_sign_is_refused(size: int, sign: int) -> None:
    with pytest.raises(ShapeError, match="expected 32"):
        Mask(bytes(size), sign)


def test_a_mask_hides_its_seed_and_travels_to_another_process() -> None:
    mask = Mask(SEED, -1)
    assert repr(mask) == "Mask(sign=-1)"
    assert pickle.loads(pickle.dumps(mask)) == mask
