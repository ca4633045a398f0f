"""Pace steering: about as many devices return per round as the next draw wants, spread out."""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.agent.client import ServerClient
from emberfleet.core.offers import Mode
from emberfleet.server.rounds.pacing import (
    FIRST_ROUND_S,
    LEAST_S,
    MOST_S,
    Pace,
    come_back_s,
    enough_devices,
    round_seconds,
)
from emberfleet.server.rounds.plan import RoundPlan
from tests.fleet import Target, serve

PLAN = RoundPlan(mode=Mode.SEALED, cohort=10, over_selection=0.3, minimum=2)


@given(st.integers(0, 10**6), st.integers(1, 10**4), st.floats(0.1, 10**5), st.floats(0, 1, exclude_max=True))
def test_a_small_fleet_is_never_sent_away_and_nobody_for_ever(
    population: int, enough: int, round_s: float, share: float
) -> None:
    found = come_back_s(population, enough, round_s, share)
    assert (found == 0) is (population <= enough)
    assert found == 0 or LEAST_S / 2 <= found <= 1.5 * MOST_S


def test_about_the_wanted_number_returns_in_each_round_and_never_all_at_once() -> None:
    population, enough, round_s, generator = 2000, 100, 30.0, random.Random(1)
    returns = [come_back_s(population, enough, round_s, generator.random()) for _ in range(population)]
    heapq.heapify(returns)
    per_round = Counter[int]()
    while returns[0] < 100 * round_s:
        per_round[int(returns[0] / round_s)] += 1
        away_s = come_back_s(population, enough, round_s, generator.random())
        heapq.heapreplace(returns, returns[0] + away_s)
    settled = [per_round[number] for number in range(20, 100)]
    assert sum(settled) / len(settled) == pytest.approx(enough, rel=0.1)
    assert max(per_round.values()) < 2.5 * enough


def test_rounds_last_from_their_draw_to_their_end() -> None:
    assert round_seconds([(10.0, 40.0), (None, 40.0), (10.0, 20.0), (10.0, None)]) == 20.0
    assert round_seconds([]) == FIRST_ROUND_S


def test_a_draw_has_twice_as_many_to_choose_from_or_the_pool_of_the_plan() -> None:
    assert enough_devices(PLAN) == 26
    assert enough_devices(replace(PLAN, pool=500)) == 500


def test_who_comes_beyond_enough_is_sent_away_and_who_waits_is_not() -> None:
    pace = Pace(PLAN, lambda: 0.5)
    for number in range(26):
        assert pace.retry_after_s(f"d{number}", number + 1, 0.0) == 0
    assert pace.retry_after_s("late", 27, 0.0) == pytest.approx(FIRST_ROUND_S * 27 / 26)
    assert pace.retry_after_s("d3", 26, 1.0) == 0
    for number in range(1000):
        pace.retry_after_s(f"more{number}", 27, 2.0)
    assert pace.retry_late_s(100.0) == pytest.approx(FIRST_ROUND_S * 1027 / 26)


def test_devices_that_no_longer_come_are_forgotten() -> None:
    pace = Pace(PLAN, lambda: 0.5)
    for number in range(100):
        pace.retry_after_s(f"d{number}", 27, 0.0)
    assert pace.retry_late_s(10.0) > 0
    assert pace.retry_late_s(10**6) == 0


def test_a_device_too_many_is_told_at_once_when_to_come_back(tmp_path: Path) -> None:
    plan = RoundPlan(mode=Mode.SEALED, cohort=1, minimum=1, pool=3, deadline_s=300, lease_s=0)
    with serve(tmp_path / "server", plan) as server:
        agents = [server.device(tmp_path / f"device{n}", Target(0.0)) for n in range(7)]
        clients = [ServerClient.of(agent.identity) for agent in agents]
        waiting = [threading.Thread(target=client.ask_work, args=(1, 3)) for client in clients[:3]]
        for thread in waiting:
            thread.start()
        while (server.status()["round"] or {}).get("phase") != "collect":
            time.sleep(0.01)
        held = [threading.Thread(target=client.ask_work, args=(1, 2)) for client in clients[3:6]]
        for thread in held:
            thread.start()
        while server.status()["present"] < 3:
            time.sleep(0.01)
        reply = clients[6].ask_work(1, wait_s=20)
        assert reply.offer is None
        assert 0.5 * FIRST_ROUND_S <= reply.retry_after_s <= 4 * FIRST_ROUND_S
        for thread in (*waiting, *held):
            thread.join()
        for client, agent in zip(clients, agents, strict=True):
            client.close()
            agent.close()
