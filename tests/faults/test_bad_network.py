"""Answers are lost, requests doubled, delayed, reordered: the sum is exact all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.marked_fleet import MarkedFleet, marked_plan
from tests.faults.proxy import Fault, misbehaving_proxy

BAD = {Fault.LOST_REQUEST: 0.08, Fault.LOST_ANSWER: 0.1, Fault.DOUBLED: 0.12, Fault.DELAYED: 0.3}


@pytest.mark.parametrize("mode", ["secure", "sealed"])
def test_a_network_that_loses_doubles_delays_and_reorders_costs_time_and_nothing_else(
    tmp_path: Path, mode: str
) -> None:
    plan = marked_plan(mode=mode, cohort=5, minimum=3, pool_wait_s=2.0, lease_s=20.0, deadline_s=60.0)
    fleet = MarkedFleet(tmp_path / "fleet", 5, plan)
    assert fleet.server.start()
    with misbehaving_proxy(fleet.server.address, BAD, seed=3) as proxy:
        fleet.enrol(proxy.address)
        with fleet.at_work():
            fleet.wait_for_rounds(2, 120)
        fleet.server.stop()
    assert all(proxy.happened[fault] for fault in Fault), proxy.happened
    assert fleet.check_models() >= 2
    assert [row.failure for row in fleet.rows() if row.phase == "failed" and row.cohort] == []
