from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emberfleet.agent import taking_part
from emberfleet.agent.agent import Agent, Outcome, Turn
from emberfleet.agent.client import MAX_REPLY_BYTES, ServerClient
from emberfleet.agent.taking_part import StoppedError
from emberfleet.core.offers import Mode
from emberfleet.server.rounds.plan import RoundPlan
from tests.fleet import RunningServer, Target, at_work, open_bundle, serve

PLAN = RoundPlan(mode=Mode.SECURE, cohort=4, minimum=3, bits=16, clip=4.0, heaviest=10, dropout_share=0.25)
ROUNDS = 3
DEATHS = ((0, False), (1, False), (2, True))
"""At which request of a life, and whether before it is sent: after what is said, after what is heard, and
before the next is said. Each time around a device comes one stage further."""


class MortalClient(ServerClient):
    """Dies at a chosen request of a round, just before it is sent or just after it was answered.

    What it raises leaves the round as it is: the device is as if it had been killed there, since its next
    life knows what lies in its folder alone.
    """

    die_at: int = -1
    before: bool = True
    count: int = 0
    sent: dict[tuple[str, str], set[bytes]]

    def _send(self, method: str, target: str, body: bytes, limit: int = MAX_REPLY_BYTES) -> bytes:
        if "/rounds/" not in target or target.endswith("/alive"):
            return super()._send(method, target, body, limit)
        place, self.count = self.count, self.count + 1
        if place == self.die_at and self.before:
            raise StoppedError("killed")
        self.sent[method, target.partition("?")[0]].add(body)
        found = super()._send(method, target, body, limit)
        if place == self.die_at:
            raise StoppedError("killed")
        return found


def devices_of(server: RunningServer, folder: Path, count: int = 4) -> list[Agent]:
    values = [(0.25 * (index + 1), index + 1) for index in range(count)]
    return [
        server.device(folder / f"device {index}", Target(value, samples))
        for index, (value, samples) in enumerate(values)
    ]


@contextmanager
def mortal(victim: Agent) -> Iterator[dict[tuple[str, str], set[bytes]]]:
    """One device in a thread: killed again and again in every round, and started again on its folder."""
    stop, deaths, sent = threading.Event(), list[int](), defaultdict[tuple[str, str], set[bytes]](set)
    folder = victim._rounds._state.parent
    target = victim._retrain
    identity, backoff = victim.identity, victim._client.backoff

    def born(place: int) -> Agent:
        client = MortalClient(identity.server, identity.key, identity.device_id, backoff)
        (client.die_at, client.before), client.sent = DEATHS[place % len(DEATHS)], sent
        return Agent(folder, target, lambda data: open_bundle(data, identity.trusted).version, client=client)

    def live() -> None:
        place = 0
        agent = born(place)
        while not stop.is_set():
            try:
                agent.run_once(wait_s=1)
            except StoppedError:
                agent.close()
                place += 1
                deaths.append(place)
                agent = born(place)
            except Exception:
                if not stop.is_set():
                    raise
        agent.close()

    victim.close()
    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    try:
        yield sent
        assert len(deaths) >= 4 * ROUNDS
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def test_a_device_killed_at_any_request_of_a_round_goes_on_and_every_sum_is_whole(tmp_path: Path) -> None:
    with serve(tmp_path / "server", PLAN, rounds=ROUNDS) as server:
        *others, victim = devices_of(server, tmp_path)
        with at_work(others), mortal(victim) as sent:
            over = server.wait_for_rounds(ROUNDS, timeout_s=60)
        assert [(row["phase"], row["accepted"], row["culprits"]) for row in over] == [("done", 4, 0)] * ROUNDS
        for tensor in server.model(ROUNDS + 1).values():
            np.testing.assert_allclose(tensor, (1 * 1 + 2 * 2 + 3 * 3 + 4 * 4) / 40, atol=0.001)
    posted = {key: bodies for key, bodies in sent.items() if key[0] == "POST"}
    assert len({path.split("/")[3] for _, path in posted}) == ROUNDS
    # The others' shares may be enough before the victim is back to give its own.
    named = {path.rpartition("/")[2] for _, path in posted} - {"disclosure"}
    assert named == {"keys", "shares", "confirmation"}
    assert all(len(bodies) == 1 for bodies in posted.values())


def test_a_device_that_is_told_late_forgets_the_round_and_joins_the_next(tmp_path: Path) -> None:
    plan = replace(PLAN, lease_s=0.0, deadline_s=1.0)
    held = threading.Event()
    with serve(tmp_path / "server", plan, rounds=2) as server:
        *others, slow = devices_of(server, tmp_path)
        target = slow._retrain
        assert isinstance(target, Target)
        target.before = lambda: wait_for(held)
        turns: list[Turn] = []
        thread = threading.Thread(target=lambda: turns.append(turn_of(slow, Outcome.LEFT)), daemon=True)
        with at_work(others):
            thread.start()
            assert server.wait_for_rounds(1)[-1]["accepted"] == 3
            assert (tmp_path / "device 3" / "round.json").exists()
            held.set()
            thread.join(10)
            assert turns
            assert turns[0].round_number == 1
            assert not (tmp_path / "device 3" / "round.json").exists()
            assert not (tmp_path / "device 3" / "round.update").exists()
            assert turn_of(slow, Outcome.SENT).round_number == 2
        slow.close()


def turn_of(agent: Agent, outcome: Outcome) -> Turn:
    """The first turn with this outcome."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        turn = agent.run_once(wait_s=1)
        if turn.outcome is outcome:
            return turn
    raise AssertionError(f"no turn came to {outcome}")


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"minimum_cohort": 9}, "fewer updates than this device's minimum_cohort: 3, expected at least 9"),
        ({"allow_sealed": False}, "shows single updates to the server"),
    ],
)
def test_a_device_leaves_a_round_that_its_owner_does_not_want_and_says_why(
    tmp_path: Path, setting: dict[str, int], reason: str
) -> None:
    mode = Mode.SECURE if "minimum_cohort" in setting else Mode.SEALED
    with serve(tmp_path / "server", replace(PLAN, mode=mode), rounds=1) as server:
        *others, careful = devices_of(server, tmp_path)
        careful.identity = replace(careful.identity, **setting)  # type: ignore[arg-type]
        with at_work(others):
            assert reason in turn_of(careful, Outcome.LEFT).text
            (row,) = server.wait_for_rounds(1)
        assert (row["phase"], row["accepted"]) == ("done", 3)
        careful.close()


def test_a_training_that_fails_is_declined_and_the_others_go_on(tmp_path: Path) -> None:
    with serve(tmp_path / "server", PLAN, rounds=1) as server:
        agents = devices_of(server, tmp_path)
        target = agents[0]._retrain
        assert isinstance(target, Target)
        target.value = float("nan")
        with at_work(agents):
            (row,) = server.wait_for_rounds(1)
        assert (row["phase"], row["accepted"]) == ("done", 3)
        assert not (tmp_path / "device 0" / "round.json").exists()


def test_what_eight_bits_keep_back_is_there_for_the_next_round(tmp_path: Path) -> None:
    with serve(tmp_path / "server", replace(PLAN, bits=8), rounds=1) as server:
        agents = devices_of(server, tmp_path)
        with at_work(agents):
            server.wait_for_rounds(1)
            _until((tmp_path / "device 0" / "residual.safetensors").exists)
        assert not (tmp_path / "device 0" / "residual.pending").exists()


def test_a_wait_ends_when_the_device_is_stopped_and_the_round_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking_part, "WAIT_S", 1)
    with serve(tmp_path / "server", replace(PLAN, keys_s=30.0), rounds=1) as server:
        agents = devices_of(server, tmp_path)
        stop = threading.Event()
        waiting = threading.Thread(target=agents[0].run_forever, args=(stop,), daemon=True)
        waiting.start()
        asked = [threading.Thread(target=ask_only, args=(agent,), daemon=True) for agent in agents[1:]]
        for thread in asked:
            thread.start()
        _until(lambda: (tmp_path / "device 0" / "round.json").exists())
        stop.set()
        waiting.join(10)
        assert not waiting.is_alive()
        agents[0].close()
        assert (tmp_path / "device 0" / "round.json").exists()


def ask_only(agent: Agent) -> None:
    """Bring the model, get an offer, and never answer it."""
    agent.fetch_model(1)
    agent._client.ask_work(1, 5)
    agent.close()


def _until(what: Callable[[], bool], timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def wait_for(event: threading.Event) -> None:
    assert event.wait(20)
