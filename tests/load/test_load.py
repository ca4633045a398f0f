"""Many devices at once: a secure round of sixty simulated ones, with the server in a process of its own."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.measure.load import run_load

DEVICES = 60
VANISHED = 2


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    # The model of the round is compared with what the devices sent, or this raises.
    return run_load(tmp_path_factory.mktemp("load") / "run", DEVICES, 2)


@pytest.mark.slow
def test_every_device_goes_through_the_whole_round(found: dict[str, Any]) -> None:
    counts = {row["request"]: row["count"] for row in found["rows"]}
    alive = DEVICES - VANISHED
    assert found["gave_up"] == VANISHED
    needed = counts.pop("disclosure")
    assert counts == {
        "enrol": DEVICES, "keys": DEVICES, "shares": DEVICES, "decline": VANISHED,
        "update": alive, "confirmation": alive,
    }  # fmt: skip
    # Who is slow finds the round over: its shares were not needed any more.
    assert alive - found["not_needed"] <= needed <= alive


@pytest.mark.slow
def test_the_graph_is_sparse_as_it_is_chosen_for_so_many(found: dict[str, Any]) -> None:
    assert found["neighbours"] == 22
    assert found["threshold"] < found["neighbours"]


@pytest.mark.slow
def test_the_servers_memory_is_bounded(found: dict[str, Any]) -> None:
    assert 20 < found["server_peak_mib"] < 250
