"""Masked sums: masks cancel whoever drops out, the sum is exact, and what is wrong is noticed."""

from __future__ import annotations

import multiprocessing
import pickle
import random
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberfleet.core.errors import FormatError, RoundError, ShapeError
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
from emberfleet.core.secure.packing import BLOCK, unpack
from emberfleet.core.secure.ring import Ring
from emberfleet.core.secure.rounding import round_change
from emberfleet.core.updates import TensorPlan, UpdatePlan, unflatten_update
from tests.core.secure import twins
from tests.core.secure.fleets import SEEDS, Fleet, fleets, plan_of

SEED = bytes(range(32))
MASKS = st.lists(st.builds(Mask, SEEDS, st.sampled_from([1, -1])), max_size=4)


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


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_a_weight_whose_digits_stand_in_two_blocks_is_read(before: int) -> None:
    layout = SumLayout(plan_of(BLOCK - before), 5, heaviest=1_000_000)
    total = empty_sum(layout)
    add_masked(total, mask_update(np.zeros(BLOCK - before, np.float32), 654_321, layout, [], SEED), layout)
    assert read_sum(total, layout, 1).weight == 654_321


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


def test_processes_share_the_work_too() -> None:
    masks = [Mask(bytes([index]) * 32, (-1) ** index) for index in range(5)]
    alone, together = np.zeros(70_000, "<u2"), np.zeros(70_000, "<u2")
    add_masks(alone, masks)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        add_masks(together, masks, process, 2)
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


@given(st.binary(min_size=90, max_size=90), st.integers(1, 5), st.sampled_from([60, 63]))
def test_whatever_bytes_of_the_right_length_are_read_as_the_plain_twin_reads_them_or_refused(
    data: bytes, devices: int, size: int
) -> None:
    layout = SumLayout(plan_of(size), devices)
    data = data[: layout.size_bytes]
    total = empty_sum(layout)
    try:
        add_masked(total, data, layout)
    except FormatError:
        assert not total.any()
        return
    assert twins.pack(total.tolist(), layout.ring) == data


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


@pytest.mark.parametrize("digits", [[-1, 1], [382, 0]])
def test_a_digit_that_no_devices_can_have_sent_is_refused_though_the_weight_is_fine(
    digits: list[int],
) -> None:
    layout = SumLayout(plan_of(2), 8, heaviest=300)
    assert 3 <= layout.read_weight(digits) <= 900
    with pytest.raises(RoundError, match="Nothing of this round can be used"):
        read_sum(sum_of(layout, [0, 0], digits), layout, 3)


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
