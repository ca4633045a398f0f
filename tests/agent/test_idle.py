"""What a device that waits for work costs: nothing that only a round needs."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from emberfleet.core.offers import Mode
from emberfleet.server.rounds.plan import RoundPlan
from tests.fleet import Target, serve


def test_a_waiting_device_loads_neither_numpy_nor_what_prints() -> None:
    program = """
import sys
import emberfleet.agent.agent
import emberfleet.agent.client
import emberfleet.agent.retraining
print(*sorted({"numpy", "rich", "click", "pygments", "typer"} & set(sys.modules)))
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == ""


def test_a_device_is_told_to_rest_after_it_did_something_and_only_then(tmp_path: Path) -> None:
    plan = RoundPlan(mode=Mode.SECURE, cohort=3, minimum=3, pool_wait_s=600)
    with serve(tmp_path / "server", plan) as server:
        agent = server.device(tmp_path / "device", Target(1.0))
        stop, turns, rests = threading.Event(), list[str](), list[int]()

        def rest() -> None:
            rests.append(len(turns))
            stop.set()

        worker = threading.Thread(
            target=agent.run_forever, args=(stop, lambda turn: turns.append(turn.outcome), rest), daemon=True
        )
        worker.start()
        worker.join(20)
        assert not worker.is_alive()
        assert turns == ["new_model", "idle"]
        assert rests == [2]
        agent.close()
