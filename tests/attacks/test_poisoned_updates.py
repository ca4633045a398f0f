"""Three devices in ten lie: every robust rule stays near what the honest ones learnt, the mean does not."""

from __future__ import annotations

import numpy as np
import pytest

from emberfleet.core.updates import TensorPlan, UpdatePlan, encode_update, read_update
from emberfleet.server.aggregate.rules import RULES, RuleSettings, aggregate
from emberfleet.server.aggregate.stored import StoredUpdates

DEVICES, LIARS, SIZE = 20, 6, 2000
NOISE = 0.01
ROBUST = tuple(rule for rule in RULES if rule != "mean")


def poisoned(attack: str, bits: int) -> tuple[StoredUpdates, UpdatePlan, np.ndarray, set[str]]:
    """Updates, plan, honest mean, and the liars, who send what `attack` says, clipped by the plan."""
    plan = UpdatePlan((TensorPlan("w", (SIZE,), 1.0),), bits)
    generator = np.random.default_rng(7)
    truth = generator.choice([-0.04, 0.04], SIZE)
    found: dict[str, tuple[int, np.ndarray]] = {}
    honest = []
    # Ids are drawn, so that liars stand among the others.
    names = [f"{name:03d}" for name in generator.permutation(DEVICES)]
    for i, name in enumerate(names):
        change = truth + generator.normal(0, NOISE, SIZE)
        if i >= LIARS:
            honest.append(change)
        elif attack == "sign flip x 10":
            change = -10 * change
        elif attack == "noise":
            change = generator.normal(0, 0.5, SIZE)
        elif attack == "scaled by 1e6":
            change = 1e6 * np.abs(change)
        new = {"w": change.astype(np.float32)}
        payload = encode_update({"w": np.zeros(SIZE, np.float32)}, new, plan)
        found[name] = (10, read_update(payload, plan))
    return StoredUpdates.of(found), plan, np.mean(honest, axis=0), set(names[:LIARS])


def distance(rule: str, attack: str, bits: int) -> float:
    """How far the aggregate ends from the honest mean, in parts of the honest mean's own length."""
    updates, plan, honest, _ = poisoned(attack, bits)
    found = aggregate(RuleSettings(rule, 0.3), updates, plan)
    step = plan.step(plan.tensors[0])
    return float(np.linalg.norm(found.mean * step - honest) / np.linalg.norm(honest))


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("attack", ["sign flip x 10", "noise", "scaled by 1e6"])
class TestThreeLiarsInTen:
    def test_the_mean_is_led_astray(self, attack: str, bits: int) -> None:
        assert distance("mean", attack, bits) > 1

    @pytest.mark.parametrize("rule", ROBUST)
    def test_robust_rules_stay_near_the_honest_mean(self, rule: str, attack: str, bits: int) -> None:
        # A clipped liar still pulls with its share of the weight, up to its own length and ours: 2 * 0.3.
        assert distance(rule, attack, bits) < (0.65 if rule == "clipped_mean" else 0.3)

    @pytest.mark.parametrize("rule", ["krum", "multi_krum"])
    def test_krum_names_every_liar(self, rule: str, attack: str, bits: int) -> None:
        updates, plan, _, liars = poisoned(attack, bits)
        found = aggregate(RuleSettings(rule, 0.3), updates, plan)
        assert liars <= set(found.excluded)
