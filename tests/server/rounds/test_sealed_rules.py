"""Sealed rounds over real HTTP: the plan's rule and optimizer make the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emberfleet.core.offers import Mode
from emberfleet.server.rounds.plan import RoundPlan
from tests.fleet import RunningServer, Target, at_work, serve

HONEST = (0.09, 0.10, 0.11, 0.10)
LIE = -0.25
"""As far as the clip lets a device go."""


def plan_of(devices: int, **settings: Any) -> RoundPlan:
    return RoundPlan(
        **{
            "mode": Mode.SEALED,
            "cohort": devices,
            "minimum": devices,
            "lease_s": 0,
            "deadline_s": 20,
            **settings,
        }
    )


def learn(server: RunningServer, folder: Path, targets: tuple[float, ...], rounds: int = 1) -> None:
    agents = [server.device(folder / str(i), Target(value), f"device {i}") for i, value in enumerate(targets)]
    with at_work(agents):
        assert [row["phase"] for row in server.wait_for_rounds(rounds)] == ["done"] * rounds


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("mean", (sum(HONEST) + LIE) / 5),
        ("median", 0.10),
        ("trimmed_mean", (0.09 + 0.10 + 0.10) / 3),
        ("krum", 0.10),
        ("multi_krum", 0.10),
        ("geometric_median", 0.10),
    ],
)
def test_the_rule_of_the_plan_makes_the_model(rule: str, expected: float, tmp_path: Path) -> None:
    plan = plan_of(5, rule=rule, byzantine_share=0.2)
    with serve(tmp_path / "server", plan) as server:
        learn(server, tmp_path, (*HONEST, LIE))
        found = server.model(2)["conv/weight"]
        np.testing.assert_allclose(found, expected, atol=3e-5)
        assert not list((tmp_path / "server" / "rounds").rglob("*.values"))


def test_the_optimizer_keeps_its_state_from_round_to_round(tmp_path: Path) -> None:
    plan = plan_of(2, bits=32, server_optimizer="fedavgm", server_momentum=0.5)
    with serve(tmp_path / "server", plan, rounds=2) as server:
        learn(server, tmp_path, (0.1, 0.1), rounds=2)
        # 0.1 first; then the devices come back from 0.1 with no change, and half the velocity is left.
        np.testing.assert_allclose(server.model(2)["conv/weight"], 0.1, rtol=1e-6)
        np.testing.assert_allclose(server.model(3)["conv/weight"], 0.15, rtol=1e-6)
        np.testing.assert_allclose(server.model(3)["norm/variance"], 0.1, rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["fedadam", "fedyogi"])
def test_adaptive_optimizers_make_the_model(optimizer: str, tmp_path: Path) -> None:
    plan = plan_of(
        2, bits=32, server_optimizer=optimizer, server_rate=0.05, server_momentum=0.9, server_tau=0.01
    )
    with serve(tmp_path / "server", plan) as server:
        learn(server, tmp_path, (0.1, 0.1))
        second = 0.99 * 1e-4 + 0.01 * 0.01 if optimizer == "fedadam" else 1e-4 + 0.01 * 0.01
        np.testing.assert_allclose(
            server.model(2)["conv/weight"], 0.05 * 0.01 / (np.sqrt(second) + 0.01), rtol=1e-5
        )
