from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from emberfleet.engine.numpy_backend.activations import activations
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.engine.numpy_backend.threads import Threads
from tests.engine.networks import linear_network, random_batch, single_tensors


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_blas_keeps_to_the_bound_within_and_to_its_own_number_after() -> None:
    assert NumpyBackend().name == "numpy"
    before = blas_threads()
    with Threads(1).bounded():
        assert set(blas_threads()) == {1}
    assert blas_threads() == before


def test_the_environment_gives_the_number_where_the_caller_gives_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EMBERFLEET_THREADS", " 1 ")
    assert Threads(None).count == 1
    assert Threads(3).count == 3
    monkeypatch.delenv("EMBERFLEET_THREADS")
    assert Threads(None).count is None
    before = blas_threads()
    with Threads(None).bounded():
        assert blas_threads() == before


def test_activations_keep_to_the_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = linear_network()
    x, _ = random_batch(graph, 2)
    asked: list[int | None] = []

    class Recorded(Threads):
        def __init__(self, count: int | None) -> None:
            super().__init__(count)
            asked.append(self.count)

    monkeypatch.setattr("emberfleet.engine.numpy_backend.activations.Threads", Recorded)
    monkeypatch.setenv("EMBERFLEET_THREADS", "1")
    for threads in (None, 2):
        activations(graph, single_tensors(graph), x.astype(np.float32), [graph.logits], threads)
    assert asked == [1, 2]
