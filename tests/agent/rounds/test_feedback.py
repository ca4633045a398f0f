from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emberfleet.agent.rounds import secure
from emberfleet.agent.rounds.feedback import keeps_residual, residual_name, residual_of
from emberfleet.core.arrays import Float32, Float64
from emberfleet.core.secure.coordinates import Coordinates
from emberfleet.core.secure.layout import SumLayout
from emberfleet.core.secure.rounding import round_change
from emberfleet.core.updates import TensorPlan, UpdatePlan
from tests.agent.rounds.test_sealed import TERMS as SEALED
from tests.agent.rounds.world import PLAN, World, terms_of

SEED = bytes(range(32))


def layout_of(share: float = 1.0, heaviest: int = 1, number: int = 0, bits: int = 8) -> SumLayout:
    seed = bytes([number]) * 32
    chosen = None if share == 1 else Coordinates.of_share(seed, share)
    return SumLayout(replace(PLAN, bits=bits), 4, heaviest, chosen)


def sent_of(change: Float32, samples: int, layout: SumLayout, seed: bytes) -> Float64:
    """What the integers stand for, tensor by tensor, the longhand way."""
    integers = layout.ring.signed(round_change(change, samples, layout, seed)).astype(np.float64)
    whole = np.zeros(layout.plan.size)
    whole[np.arange(layout.plan.size) if layout.chosen is None else layout.chosen] = integers
    for tensor, span in layout.plan.spans():
        whole[span] *= layout.plan.step(tensor) * layout.heaviest / layout.weigh(samples)
    return whole


@pytest.mark.parametrize(("share", "heaviest", "samples"), [(1.0, 1, 5), (0.4, 1, 5), (0.4, 40, 7)])
def test_what_is_sent_and_what_is_kept_back_are_the_change(share: float, heaviest: int, samples: int) -> None:
    layout = layout_of(share, heaviest)
    change = (np.random.default_rng(3).standard_normal(PLAN.size) * 0.1).astype(np.float32)
    left = residual_of(change, samples, layout, SEED)
    np.testing.assert_allclose(sent_of(change, samples, layout, SEED) + left, change, atol=1e-6)
    if share < 1:
        assert layout.chosen is not None
        unsent = np.setdiff1d(np.arange(PLAN.size), layout.chosen)
        assert unsent.size
        np.testing.assert_array_equal(left[unsent], change[unsent])


def test_what_is_kept_back_stays_within_one_updates_clips() -> None:
    change = np.full(PLAN.size, 100, np.float32)
    left = residual_of(change, 1, layout_of(), SEED)
    np.testing.assert_array_equal(left, [0.5] * 5 + [2.0] * 6)


def distance(feedback: bool, rounds: int = 200) -> float:
    """How far two devices that each step towards their own goal end from the mean of both goals."""
    generator = np.random.default_rng(1)
    goals = generator.uniform(-1, 1, (2, PLAN.size))
    # Far smaller than an 8-bit step: 2 / 127.
    plan = UpdatePlan((TensorPlan("a", (PLAN.size,), 2.0),), 8)
    model = np.zeros(PLAN.size)
    residuals = np.zeros((2, PLAN.size), np.float32)
    for number in range(rounds):
        layout = SumLayout(plan, 2, 1, Coordinates.of_share(bytes([number]) * 32, 0.1))
        total = np.zeros(PLAN.size)
        for device, goal in enumerate(goals):
            change = (0.02 * (goal - model)).astype(np.float32)
            if feedback:
                change += residuals[device]
            seed = bytes([device]) * 16 + number.to_bytes(16, "big")
            total += sent_of(change, 1, layout, seed)
            residuals[device] = residual_of(change, 1, layout, seed)
        model += total / 2
    return float(np.abs(model - goals.mean(axis=0)).max())


def test_with_feedback_rounds_that_send_a_tenth_reach_what_rounds_without_it_miss() -> None:
    assert distance(feedback=True) < 0.05
    assert distance(feedback=False) > 0.2


@pytest.mark.parametrize(
    ("coordinates", "bits", "kept"), [(1.0, 16, False), (0.5, 16, True), (1.0, 8, True), (0.5, 8, True)]
)
def test_a_residual_is_kept_where_little_is_sent(coordinates: float, bits: int, kept: bool) -> None:
    assert keeps_residual(terms_of(plan=replace(PLAN, bits=bits), coordinates=coordinates)) is kept


def test_sealed_rounds_keep_none() -> None:
    assert not keeps_residual(SEALED)


def test_a_residual_belongs_to_tensors_by_name_and_shape_whatever_their_clips() -> None:
    name = residual_name(PLAN)
    clipped = replace(PLAN, tensors=tuple(replace(tensor, clip=9.0) for tensor in PLAN.tensors))
    assert residual_name(clipped) == name
    for other in (replace(PLAN.tensors[0], name="c"), replace(PLAN.tensors[0], shape=(6,))):
        assert residual_name(replace(PLAN, tensors=(other, PLAN.tensors[1]))) != name


def test_the_residual_is_of_the_very_bits_that_are_sent() -> None:
    world = World.of(3)
    world.group()
    device = world.devices[0]
    layout, seed = device.round.group.layout, secure.rounding_of(device.round)
    left = residual_of(device.change, device.samples, layout, seed)
    world.train_one(device)
    scales = np.concatenate([np.full(5, 0.5 / 127), np.full(6, 2.0 / 127)])
    np.testing.assert_allclose(world.integers[0] * scales + left, device.change, atol=1e-6)
