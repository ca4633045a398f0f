"""The laws of averaging: order does not matter, constants stay, and blocks equal the plain mean."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from emberfleet.core.errors import RoundError
from emberfleet.core.updates import TensorPlan, UpdatePlan
from emberfleet.server.aggregate import stored as stored_module
from emberfleet.server.aggregate.stored import StoredUpdates, UpdateFile
from emberfleet.server.aggregate.weighted_sum import FLOATS, INTEGERS, weighted_mean, weighted_sum
from tests.server.aggregate import plain

MAX_WEIGHT = 1_000_000
GROUP = INTEGERS.rows
COLUMNS = FLOATS.columns
UPDATES = st.lists(
    st.tuples(st.lists(st.integers(-32767, 32767), min_size=5, max_size=5), st.integers(1, MAX_WEIGHT)),
    min_size=1,
    max_size=2 * GROUP,
)


def stored(updates: list[tuple[list[int], int]], dtype: str = "<i2") -> StoredUpdates:
    return StoredUpdates.of({f"{i:03d}": (w, np.array(v, dtype)) for i, (v, w) in enumerate(updates)})


def random_updates(dtype: str, count: int, size: int, heaviest: int = 30) -> StoredUpdates:
    generator = np.random.default_rng(count * size)
    kind = np.dtype(dtype)
    largest = 1 if kind.kind == "f" else np.iinfo(kind).max
    return StoredUpdates.of(
        {
            f"{i:03d}": (
                int(generator.integers(1, heaviest, endpoint=True)),
                generator.uniform(-largest, largest, size).astype(kind),
            )
            for i in range(count)
        }
    )


@given(UPDATES)
def test_the_mean_of_integers_is_the_exact_one_in_every_bit(updates: list[tuple[list[int], int]]) -> None:
    exact = [
        sum(weight * values[place] for values, weight in updates) / sum(weight for _, weight in updates)
        for place in range(5)
    ]
    np.testing.assert_array_equal(weighted_mean(stored(updates)), exact)


@given(UPDATES, st.randoms())
def test_the_mean_of_integers_does_not_depend_on_the_order_in_any_bit(
    updates: list[tuple[list[int], int]], generator: random.Random
) -> None:
    shuffled = list(updates)
    generator.shuffle(shuffled)
    assert weighted_mean(stored(updates)).tobytes() == weighted_mean(stored(shuffled)).tobytes()


@pytest.mark.parametrize("dtype", ["<i1", "<i2", "<f4"])
@pytest.mark.parametrize("heaviest", [1, 30, MAX_WEIGHT])
@pytest.mark.parametrize("count", [1, GROUP - 1, GROUP, GROUP + 1, 2 * FLOATS.rows + 5])
def test_blocks_and_groups_equal_the_plain_mean(dtype: str, heaviest: int, count: int) -> None:
    updates = random_updates(dtype, count, 9, heaviest)
    expected = plain.weighted_mean(updates.values.tolist(), updates.weights)
    sizes = plain.weighted_mean(np.abs(updates.values.astype(float)).tolist(), updates.weights)
    bound = (FLOATS.rows + 2) * 2.0**-24 * np.array(sizes) if dtype == "<f4" else np.zeros(9)
    assert (np.abs(weighted_mean(updates) - expected) <= bound).all()


@pytest.mark.parametrize("dtype", ["<i1", "<i2", "<f4"])
@pytest.mark.parametrize(
    "size", [1, INTEGERS.columns + 1, COLUMNS - 1, COLUMNS, COLUMNS + 1, 3 * COLUMNS + 7]
)
def test_every_value_is_counted_once(dtype: str, size: int) -> None:
    values = (np.arange(size) % 100).astype(dtype)
    updates = StoredUpdates.of({"a": (3, values), "b": (4, values), "c": (1, values)})
    np.testing.assert_array_equal(weighted_mean(updates), values)


@pytest.mark.parametrize("dtype", ["<i1", "<i2", "<f4"])
def test_any_number_of_threads_gives_the_same_bits(dtype: str) -> None:
    updates = random_updates(dtype, 40, 5 * COLUMNS + 11)
    once = weighted_mean(updates, threads=1).tobytes()
    for threads in (2, 3, 7):
        assert weighted_mean(updates, threads).tobytes() == once
    with threadpool_limits(2, user_api="blas"):
        assert weighted_mean(updates).tobytes() == once


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_neither_order_of_arrival_nor_who_is_missing_changes_a_bit(
    bits: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plan = UpdatePlan((TensorPlan("w", (COLUMNS + 5,), 1.0),), bits)
    cohort = [f"{i:032x}" for i in range(45)]
    generator = np.random.default_rng(bits)
    sent = {
        device: generator.uniform(-plan.limit, plan.limit, plan.size).astype(plan.wire_type)
        if bits < 32
        else generator.uniform(-1, 1, plan.size).astype(plan.wire_type)
        for device in cohort[::3] + cohort[1::3]
    }
    accepted = {device: 1 + i for i, device in enumerate(sorted(sent))}
    found = set()
    for seed in range(3):
        order = list(sent)
        random.Random(seed).shuffle(order)
        file = UpdateFile(tmp_path_factory.mktemp("round") / "updates.values", cohort, plan)
        for device in order:
            file.write(device, sent[device])
        found.add(weighted_mean(file.updates(accepted)).tobytes())
    assert len(found) == 1
    mean = np.frombuffer(found.pop(), np.float64)
    rows = [sent[device][:4].tolist() for device in sorted(sent)]
    np.testing.assert_allclose(
        mean[:4], plain.weighted_mean(rows, [accepted[device] for device in sorted(sent)]), rtol=1e-5
    )


@pytest.mark.parametrize("dtype", ["<i1", "<i2", "<f4"])
def test_weights_that_are_not_whole_are_honoured(dtype: str) -> None:
    updates = random_updates(dtype, 40, 6)
    weights = np.random.default_rng(1).uniform(0, 1, 40)
    expected = (weights[:, None] * updates.values.astype(np.float64)).sum(axis=0)
    sizes = (weights[:, None] * np.abs(updates.values.astype(np.float64))).sum(axis=0)
    rounding = (FLOATS.rows + 2) * 2.0**-24 if dtype == "<f4" else 1e-14
    assert (np.abs(weighted_sum(updates, weights) - expected) <= rounding * sizes).all()


def test_the_mean_lies_between_the_smallest_and_the_largest() -> None:
    updates = random_updates("<f4", 100, 50)
    found = weighted_mean(updates)
    assert (found >= updates.values.min(axis=0)).all()
    assert (found <= updates.values.max(axis=0)).all()


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_memory_is_that_of_two_float32_vectors_however_many_updates(
    bits: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plan = UpdatePlan((TensorPlan("w", (1_250_000,), 1.0),), bits)
    cohort = [f"{i:032x}" for i in range(40)]
    file = UpdateFile(tmp_path_factory.mktemp("round") / "updates.values", cohort, plan)
    for device in cohort:
        file.write(device, np.ones(plan.size, plan.wire_type))
    updates = file.updates(dict.fromkeys(cohort, 7))
    weighted_mean(updates)
    peak = traced(lambda: weighted_mean(updates))
    assert peak <= 2 * 4 * plan.size + 8 * GROUP * INTEGERS.columns + 300_000


def test_what_was_read_does_not_stay_in_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = UpdatePlan((TensorPlan("w", (1 << 20,), 1.0),), 32)
    cohort = [f"{i:032x}" for i in range(16)]
    file = UpdateFile(tmp_path / "updates.values", cohort, plan)
    for device in cohort:
        file.write(device, np.ones(plan.size, plan.wire_type))
    held = []
    for limit in (1 << 40, 8 << 20):
        monkeypatch.setattr(stored_module, "MAPPED_BYTES", limit)
        updates = file.updates(dict.fromkeys(cohort, 7))
        before = mapped_kib()
        np.testing.assert_array_equal(weighted_mean(updates), 1)
        held.append(mapped_kib() - before)
        np.testing.assert_array_equal(weighted_mean(updates, threads=2), 1)
    assert held[0] > 50 << 10, "the test says nothing where pages do not stay anyway"
    assert held[1] < 12 << 10


def mapped_kib() -> int:
    """Pages of files that this process has mapped and touched."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssFile")))


def traced(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_sum_that_float64_could_not_hold_exactly_is_refused() -> None:
    count = 2**53 // (32767 * MAX_WEIGHT) + 1
    updates = StoredUpdates(
        tuple(f"{i:06d}" for i in range(count)),
        (MAX_WEIGHT,) * count,
        tuple(range(count)),
        np.broadcast_to(np.ones(1, np.int16), (count, 1)),
    )
    with pytest.raises(RoundError, match="exact sum"):
        weighted_mean(updates)
