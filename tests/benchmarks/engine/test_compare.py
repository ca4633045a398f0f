from __future__ import annotations

from typing import Any

import pytest

from benchmarks.engine import compare
from benchmarks.engine.job import BFLOAT16, FLOAT32
from benchmarks.engine.peers import EAGER, PEERS, Peer
from emberfleet.runtime.measuring import Result, Timing

TORCH, HALF = Peer("torch", "torch_job", "x"), Peer("torch bf16", "torch_job", "y", precision=BFLOAT16)
EAGER_PEER = Peer(EAGER, "torch_job", "eager")


def result(ms: float, *losses: float) -> Result:
    facts: dict[str, Any] = {"cpu_ms": ms, "peak_mib": 100.0, "version": "1"}
    return Result(Timing(ms, ms - 1, ms + 1, 5), facts | ({"losses": list(losses)} if losses else {}))


def test_the_ratio_is_the_peers_time_by_ours() -> None:
    (row,) = compare._rows({"opencl": result(10.0)}, {TORCH: result(25.0)})
    assert (row["peer"], row["ours_ms"], row["peer_ms"], row["ratio"]) == ("torch", 10.0, 25.0, 2.5)
    assert (row["peer_low_ms"], row["peer_high_ms"], row["precision"]) == (24.0, 26.0, FLOAT32)


def test_numpy_stands_beside_eager_alone() -> None:
    ours = {"opencl": result(10.0), "numpy": result(20.0)}
    rows = compare._rows(ours, {TORCH: result(25.0), EAGER_PEER: result(30.0)})
    assert [(row["backend"], row["peer"], row["ratio"]) for row in rows] == [
        ("opencl", "torch", 2.5),
        ("opencl", EAGER, 3.0),
        ("numpy", EAGER, 1.5),
    ]


def test_without_peers_the_row_is_ours_alone() -> None:
    (row,) = compare._rows({"opencl": result(10.0)}, {})
    assert row["ours_ms"] == 10.0
    assert {row[key] for key in ("peer", "peer_ms", "peer_rss_mib", "ratio")} == {None}


@pytest.mark.parametrize(
    ("peer", "losses", "word"),
    [
        (TORCH, (2.3, 2.3), "expected it to fall"),
        (TORCH, (2.31, 2.0), "another network"),
        (HALF, (2.31, 2.0), ""),
        (TORCH, (2.30001, 2.0), ""),
    ],
)
def test_a_peer_counts_when_it_learns_from_our_start(
    peer: Peer, losses: tuple[float, float], word: str
) -> None:
    fault = compare._fault(peer, result(25.0, *losses), result(10.0, 2.3, 1.0))
    assert (word in fault) if word else not fault


def test_a_peer_that_was_skipped_keeps_its_reason() -> None:
    assert compare._fault(TORCH, Result(None, skipped="no compiler"), result(1.0)) == "no compiler"


def test_no_two_peers_of_one_work_share_a_name() -> None:
    for peers in PEERS.values():
        assert len({peer.name for peer in peers}) == len(peers)
