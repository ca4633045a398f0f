"""An owner takes a model back while devices train on it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from emberfleet.core.offers import Mode
from emberfleet.server.releasing import open_registry
from emberfleet.server.rounds.plan import RoundPlan
from tests.fleet import Target, at_work, make_bundle, open_bundle, serve, small_model

PLAN = RoundPlan(mode=Mode.SEALED, cohort=2, minimum=2, lease_s=0, clip=10.0)


def test_the_round_at_hand_fails_and_the_next_begins_from_the_model_that_came_back(tmp_path: Path) -> None:
    with serve(tmp_path / "server", PLAN, rounds=1) as server:
        key = server.key
        once = threading.Lock()

        def take_back() -> None:
            if not once.acquire(blocking=False):
                return
            with open_registry(server.folder, lambda data: open_bundle(data, (key.verify_key,))) as registry:
                registry.import_bundle(make_bundle(small_model(5.0), 2, key), time.time())

        agents = [server.device(tmp_path / f"{n}", Target(1.0, before=take_back), f"{n}") for n in range(2)]
        with at_work(agents):
            over = server.wait_for_rounds(2, timeout_s=60)
    assert [(row["phase"], row["model_version"]) for row in over[:2]] == [("failed", 1), ("done", 2)]
    assert "model 2 was published meanwhile" in over[0]["failure"]
    assert float(server.model(3)["conv/bias"][0]) == pytest.approx(1.0, abs=1e-3)
