from __future__ import annotations

import numpy as np
import pytest

from emberfleet.cli.fleet_figures.accuracy import HEAVIEST, exact_mean, secure_mean
from emberfleet.core.updates import UpdatePlan
from emberfleet.runtime.local_training import LocalResult

SHAPES = {"conv/weight": (4, 3, 3, 2), "conv/bias": (4,)}


def learnt(seed: int, samples: int) -> LocalResult:
    numbers = np.random.default_rng(seed)
    old = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    new = {name: numbers.uniform(-0.2, 0.2, shape).astype(np.float32) for name, shape in SHAPES.items()}
    return LocalResult(old, new, samples, {})


RESULTS = [learnt(seed, samples) for seed, samples in enumerate((108, 30, HEAVIEST, 1))]


def test_the_exact_mean_goes_by_sample_counts() -> None:
    weights = np.array([result.sample_count for result in RESULTS])
    for name in SHAPES:
        changes = np.stack([result.new[name].astype(np.float64) for result in RESULTS])
        expected = np.average(changes, axis=0, weights=weights)
        assert np.allclose(exact_mean(RESULTS)[name], expected, rtol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_secure_mean_is_the_exact_one_but_for_the_rounding_of_each_device(bits: int) -> None:
    plan = UpdatePlan.for_model(RESULTS[0].old, SHAPES, bits)
    exact, secure = exact_mean(RESULTS), secure_mean(RESULTS, plan, 1)
    weight = sum(result.sample_count for result in RESULTS)
    for tensor in plan.tensors:
        # Each of the devices is off by less than a step of the heaviest.
        bound = len(RESULTS) * plan.step(tensor) * HEAVIEST / weight
        error = np.abs(secure[tensor.name] - exact[tensor.name]).max()
        assert 0 < error < bound


def test_the_same_changes_give_the_same_secure_mean_though_keys_differ() -> None:
    plan = UpdatePlan.for_model(RESULTS[0].old, SHAPES, 16)
    one, other = secure_mean(RESULTS, plan, 3), secure_mean(RESULTS, plan, 3)
    assert all((one[name] == other[name]).all() for name in SHAPES)
