"""Robust rules: each equals its plain twin, keeps what it promises, and says when it cannot."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberfleet.core.errors import ConfigError, RoundError
from emberfleet.core.updates import TensorPlan, UpdatePlan
from emberfleet.server.aggregate import blocks
from emberfleet.server.aggregate.geometric_median import MAX_STEPS, SMOOTHING
from emberfleet.server.aggregate.krum import krum_order
from emberfleet.server.aggregate.rules import RULES, RuleSettings, aggregate
from emberfleet.server.aggregate.stored import StoredUpdates, UpdateFile
from tests.server.aggregate import plain

ROBUST = tuple(rule for rule in RULES if rule != "mean")


def plan_of(bits: int, sizes: tuple[int, ...] = (4, 3), clips: tuple[float, ...] = (1.0, 8.0)) -> UpdatePlan:
    tensors = zip(sizes, clips, strict=True)
    return UpdatePlan(
        tuple(TensorPlan(f"t{i}", (size,), clip) for i, (size, clip) in enumerate(tensors)), bits
    )


def some_updates(plan: UpdatePlan, count: int, seed: int = 0) -> StoredUpdates:
    generator = np.random.default_rng(seed)
    largest = plan.limit if plan.bits < 32 else 1.0
    return StoredUpdates.of(
        {
            f"{i:03d}": (
                int(generator.integers(1, 50)),
                generator.uniform(-largest, largest, plan.size).astype(plan.wire_type),
            )
            for i in range(count)
        }
    )


def steps_of(plan: UpdatePlan) -> np.ndarray:
    return np.repeat([plan.step(t) for t in plan.tensors], [t.size for t in plan.tensors])


def real(updates: StoredUpdates, plan: UpdatePlan) -> list[list[float]]:
    found: list[list[float]] = (updates.values * steps_of(plan)).tolist()
    return found


@pytest.fixture(params=[1 << 22, 600], ids=["one block", "many blocks"])
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", request.param)
    return int(request.param)


@pytest.mark.usefixtures("block_bytes")
@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("count", [9, 10])
class TestTwins:
    """Each rule beside its plain twin, over tensors of different steps and blocks that cut through them."""

    def compare(self, rule: RuleSettings, bits: int, count: int, expected_of: object) -> None:
        plan = plan_of(bits, (40, 23, 1), (1.0, 8.0, 0.01))
        updates = some_updates(plan, count)
        found = aggregate(rule, updates, plan).mean * steps_of(plan)
        assert callable(expected_of)
        expected = expected_of(real(updates, plan), updates.weights)
        np.testing.assert_allclose(found, expected, atol=2e-6 if bits == 32 else 1e-12)

    def test_median(self, bits: int, count: int) -> None:
        self.compare(RuleSettings("median"), bits, count, lambda v, w: plain.coordinate_median(v))

    def test_trimmed_mean(self, bits: int, count: int) -> None:
        self.compare(RuleSettings("trimmed_mean", 0.25), bits, count, lambda v, w: plain.trimmed_mean(v, 3))

    @pytest.mark.parametrize("bound", [0.0, 0.7, 1e5])
    def test_clipped_mean(self, bits: int, count: int, bound: float) -> None:
        self.compare(
            RuleSettings("clipped_mean", norm_clip=bound),
            bits,
            count,
            lambda v, w: plain.clipped_mean(v, w, bound),
        )

    def test_geometric_median(self, bits: int, count: int) -> None:
        self.compare(
            RuleSettings("geometric_median"),
            bits,
            count,
            lambda v, w: plain.geometric_median(v, w, SMOOTHING, min(100, MAX_STEPS)),
        )

    def test_krum_takes_the_lowest_score(self, bits: int, count: int) -> None:
        def expected(vectors: list[list[float]], weights: object) -> list[float]:
            scores = plain.krum_scores(vectors, 2)
            return vectors[scores.index(min(scores))]

        self.compare(RuleSettings("krum", 0.2), bits, count, expected)

    def test_multi_krum_takes_the_mean_of_the_lowest(self, bits: int, count: int) -> None:
        def expected(vectors: list[list[float]], weights: object) -> list[float]:
            scores = plain.krum_scores(vectors, 2)
            best = sorted(range(count), key=lambda i: scores[i])[: count - 4]
            return plain.weighted_mean([vectors[i] for i in best], [1] * len(best))

        self.compare(RuleSettings("multi_krum", 0.2), bits, count, expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bits", [8, 16, 32])
@settings(max_examples=15)
@given(st.lists(st.integers(-127, 127), min_size=7, max_size=7), st.integers(3, 12))
def test_the_aggregate_of_equal_updates_is_that_update(
    rule: str, bits: int, values: list[int], count: int
) -> None:
    plan = plan_of(bits)
    row = (np.array(values) / (127.0 if bits == 32 else 1)).astype(plan.wire_type)
    updates = StoredUpdates.of({f"{i:03d}": (i + 1, row) for i in range(max(count, 7))})
    found = aggregate(RuleSettings(rule), updates, plan).mean
    np.testing.assert_allclose(found, row, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_the_order_of_arrival_changes_no_bit_of_any_rule(rule: str, bits: int, tmp_path: Path) -> None:
    plan = plan_of(bits)
    updates = some_updates(plan, 11)
    found = set()
    for seed in range(4):
        order = list(range(11))
        random.Random(seed).shuffle(order)
        file = UpdateFile(tmp_path / f"{seed}", updates.devices, plan)
        for i in order:
            file.write(updates.devices[i], np.asarray(updates.values[i]))
        accepted = {updates.devices[i]: updates.weights[i] for i in order}
        found.add(aggregate(RuleSettings(rule), file.updates(accepted), plan).mean.tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "krum", "multi_krum"])
def test_rules_without_weights_do_not_look_at_them(rule: str) -> None:
    plan = plan_of(16)
    updates = some_updates(plan, 9)
    heavy = StoredUpdates(updates.devices, (10**6, *updates.weights[1:]), updates.rows, updates.values)
    light = aggregate(RuleSettings(rule), updates, plan)
    np.testing.assert_array_equal(aggregate(RuleSettings(rule), heavy, plan).mean, light.mean)


@pytest.mark.parametrize("rule", ["mean", "clipped_mean", "geometric_median"])
def test_rules_with_weights_follow_the_heaviest(rule: str) -> None:
    plan = plan_of(16)
    updates = some_updates(plan, 9)
    heavy = StoredUpdates(updates.devices, (10**6, *updates.weights[1:]), updates.rows, updates.values)
    pull = [
        np.linalg.norm((aggregate(RuleSettings(rule), found, plan).mean - updates.values[0]) * steps_of(plan))
        for found in (updates, heavy)
    ]
    assert pull[1] < 0.9 * pull[0]


def test_krum_asks_the_right_number_of_neighbours() -> None:
    # One may lie of five, so each is judged by its two nearest; by three, the third point would win.
    points = np.array([0.0, 1.0, 2.2, 10.0, 10.5])
    distances = (points[:, None] - points[None, :]) ** 2
    assert krum_order(distances, 1).tolist() == [1, 0, 2, 3, 4]


def test_equal_scores_go_by_the_order_of_the_devices() -> None:
    assert krum_order(np.zeros((5, 5)), 1).tolist() == [0, 1, 2, 3, 4]


def test_the_weight_is_that_of_the_updates_that_count_and_the_rest_is_named() -> None:
    plan = plan_of(16)
    updates = some_updates(plan, 9)
    found = aggregate(RuleSettings("krum"), updates, plan)
    assert len(found.excluded) == 8
    (kept,) = set(updates.devices) - set(found.excluded)
    assert found.weight == updates.weights[updates.devices.index(kept)]
    assert aggregate(RuleSettings("median"), updates, plan).weight == sum(updates.weights)


def test_the_clipped_mean_pulls_no_further_than_its_bound() -> None:
    plan = plan_of(16)
    found = aggregate(RuleSettings("clipped_mean", norm_clip=0.25), some_updates(plan, 9), plan)
    assert np.linalg.norm(found.mean * steps_of(plan)) <= 0.25


def test_updates_of_zeros_are_not_divided_by_their_norm() -> None:
    plan = plan_of(16)
    updates = StoredUpdates.of({name: (1, np.zeros(plan.size, np.int16)) for name in "abc"})
    np.testing.assert_array_equal(aggregate(RuleSettings("clipped_mean"), updates, plan).mean, 0)
    np.testing.assert_array_equal(aggregate(RuleSettings("geometric_median"), updates, plan).mean, 0)


@pytest.mark.parametrize(
    ("rule", "share", "liars", "least"),
    [
        ("mean", 0.2, 0, 1),
        ("clipped_mean", 0.2, 1, 3),
        ("median", 0.2, 1, 3),
        ("geometric_median", 0.2, 1, 3),
        ("trimmed_mean", 0.0, 0, 1),
        ("trimmed_mean", 0.4, 2, 5),
        ("krum", 0.0, 0, 3),
        ("krum", 0.2, 1, 5),
        ("multi_krum", 0.3, 3, 9),
    ],
)
def test_a_cohort_too_small_for_the_rule_is_an_error(rule: str, share: float, liars: int, least: int) -> None:
    plan, settings = plan_of(16), RuleSettings(rule, share)
    assert settings.byzantine(least) == liars
    aggregate(settings, some_updates(plan, least), plan)
    if least > 1:
        with pytest.raises(RoundError, match=f"{rule}: {least - 1} updates, expected at least"):
            aggregate(settings, some_updates(plan, least - 1), plan)


@pytest.mark.parametrize(
    ("share", "devices", "liars"), [(0.1, 30, 3), (0.3, 10, 3), (0.2, 11, 3), (0.0, 5, 0), (0.07, 100, 7)]
)
def test_a_share_means_at_least_so_many_devices(share: float, devices: int, liars: int) -> None:
    assert RuleSettings("krum", share).byzantine(devices) == liars


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"rule": "medain"}, "rule"),
        ({"byzantine_share": 0.5}, "byzantine_share"),
        ({"byzantine_share": -0.1}, "byzantine_share"),
        ({"byzantine_share": float("nan")}, "byzantine_share"),
        ({"norm_clip": -1.0}, "norm_clip"),
        ({"norm_clip": float("nan")}, "norm_clip"),
    ],
)
def test_settings_that_cannot_be_honoured_name_themselves(settings: dict[str, float], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        RuleSettings(**settings)  # type: ignore[arg-type]


def test_more_updates_than_can_be_compared_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_COMPARED", 8)
    plan = plan_of(16)
    with pytest.raises(RoundError, match="9 updates to compare"):
        aggregate(RuleSettings("krum"), some_updates(plan, 9), plan)


@pytest.mark.parametrize("rule", ROBUST)
def test_memory_is_bounded_however_many_updates(rule: str, tmp_path: Path) -> None:
    plan = plan_of(8, (300_000,), (1.0,))
    cohort = [f"{i:032x}" for i in range(64)]
    file = UpdateFile(tmp_path / "values", cohort, plan)
    generator = np.random.default_rng(0)
    for device in cohort:
        file.write(device, generator.integers(-127, 127, plan.size, np.int8))
    updates = file.updates(dict.fromkeys(cohort, 3))
    tracemalloc.start()
    try:
        aggregate(RuleSettings(rule), updates, plan)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * plan.size + 4 * blocks.BLOCK_BYTES < 64 * plan.size
