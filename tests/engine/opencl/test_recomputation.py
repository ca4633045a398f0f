from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emberfleet.core.errors import ConfigError
from emberfleet.core.graph import Graph
from emberfleet.core.quantization import quantization_points
from emberfleet.engine.backend import TrainingSpec
from emberfleet.engine.opencl import trainer as trainer_module
from emberfleet.engine.opencl.backend import OpenCLBackend
from emberfleet.engine.opencl.trainer import OpenCLTrainer
from emberfleet.engine.opencl.training_step import TrainingStep
from emberfleet.engine.optimizers import Sgd
from emberfleet.train.models import small_squeezenet, squeezenet_1_1
from tests.engine.networks import random_batch, single_tensors
from tests.engine.opencl.networks import GRAPHS, wide_network

BATCH = 3
WITH_DROPOUT = small_squeezenet(28, 1, 10, bypass=True, dropout=0.4)
UNROUNDED = tuple(name for name in GRAPHS if name != "shared depthwise")
QUANTIZED = ("fire with bypass", "tangled", "wide fires", "no batch norm", "mobile")
"""Each program takes seconds to compile where the cache is empty."""
Record = Callable[[frozenset[str]], TrainingStep]


def tensors_of(graph: Graph, spec: TrainingSpec) -> dict[str, Any]:
    found: dict[str, Any] = dict(single_tensors(graph))
    if spec.fake_quantize:
        found |= {name: np.array([-2.0, 2.0], np.float32) for name in quantization_points(graph).values()}
    return found


def loaded(backend: OpenCLBackend, graph: Graph, spec: TrainingSpec) -> OpenCLTrainer:
    trainer = backend.trainer(graph, spec)
    trainer.load(tensors_of(graph, spec))
    return trainer


def limited(spec: TrainingSpec, limit_bytes: int) -> TrainingSpec:
    values = {name: getattr(spec, name) for name in spec.__slots__}
    return TrainingSpec(**{**values, "memory_limit_bytes": limit_bytes})


def assert_same_bits(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def assert_same_training(first: OpenCLTrainer, second: OpenCLTrainer) -> None:
    """Gradients, then three steps: losses, parameters, statistics, ranges and slots, bit for bit."""
    graph, batch = first.graph, first.spec.batch
    x, labels = random_batch(graph, batch, 9)
    assert_same_bits(
        second.gradients(x.astype(np.float32), labels), first.gradients(x.astype(np.float32), labels)
    )
    for step in range(3):
        x, labels = random_batch(graph, batch, step)
        values = x.astype(np.float32), labels, 1e-4
        loss = first.step(*values)
        assert np.isfinite(loss)
        assert second.step(*values) == loss
    assert_same_bits(second.tensors(), first.tensors())
    assert_same_bits(second.optimizer_state(), first.optimizer_state())


@pytest.fixture
def give_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[str]], set[str]]], None]:
    """Make trainers give up a choice of their storages instead of what a limit asks for."""

    def give_up(choice: Callable[[list[str]], set[str]]) -> None:
        def fit(record: Record, limit_bytes: int | None) -> TrainingStep:
            steps = record(frozenset()).steps
            return record(frozenset(choice(sorted(set(steps.labels.values()) - {steps.given}))))

        monkeypatch.setattr(trainer_module, "fit", fit)

    return give_up


@pytest.mark.parametrize(
    ("name", "quantized"), [*((name, False) for name in UNROUNDED), *((name, True) for name in QUANTIZED)]
)
def test_training_keeps_every_bit_when_all_is_computed_twice(
    backend: OpenCLBackend, give_up: Any, name: str, quantized: bool
) -> None:
    graph = GRAPHS[name]
    spec = TrainingSpec(BATCH, Sgd(), fake_quantize=quantized, range_momentum=0.5, seed=3)
    kept = loaded(backend, graph, spec)
    give_up(set)
    assert_same_training(kept, loaded(backend, graph, spec))


@pytest.mark.parametrize(
    ("trainable", "quantized"),
    [("head", False), ("head", True), ("first", False), ("without statistics", False)],
)
def test_training_a_part_keeps_every_bit(
    backend: OpenCLBackend, give_up: Any, trainable: str, quantized: bool
) -> None:
    graph = WITH_DROPOUT
    names = {
        "head": frozenset(name for name in graph.parameters if name.startswith(("fire6", "conv"))),
        "first": frozenset({"conv1/weight"}),
        "without statistics": None,
    }[trainable]
    spec = TrainingSpec(BATCH, Sgd(), names, fake_quantize=quantized, batch_statistics=trainable == "first")
    kept = loaded(backend, graph, spec)
    give_up(set)
    assert_same_training(kept, loaded(backend, graph, spec))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.integers(0), quantized=st.booleans())
def test_gradients_keep_every_bit_whatever_is_given_up(
    backend: OpenCLBackend, give_up: Any, chosen: int, quantized: bool
) -> None:
    graph = wide_network()
    spec = TrainingSpec(BATCH, Sgd(), fake_quantize=quantized)
    x, labels = random_batch(graph, BATCH)
    give_up(lambda labels: set())
    expected = loaded(backend, graph, spec).gradients(x.astype(np.float32), labels)
    give_up(lambda labels: {label for bit, label in enumerate(labels) if chosen >> bit & 1})
    assert_same_bits(loaded(backend, graph, spec).gradients(x.astype(np.float32), labels), expected)


@pytest.mark.parametrize("share", [0.8, 0.7])
@pytest.mark.parametrize(
    ("graph", "quantized"),
    [(WITH_DROPOUT, False), (WITH_DROPOUT, True), (squeezenet_1_1(10, 64), False)],
    ids=["dropout", "dropout, quantized", "squeezenet 1.1"],
)
def test_under_a_limit_the_arena_fits_and_training_keeps_every_bit(
    backend: OpenCLBackend, graph: Graph, quantized: bool, share: float
) -> None:
    spec = TrainingSpec(BATCH, Sgd(), fake_quantize=quantized, seed=3)
    kept = loaded(backend, graph, spec)
    assert not kept.memory.recomputed
    assert kept.memory.extra_work == 0.0
    limit = int(kept.arena.size_bytes * share)
    tight = loaded(backend, graph, limited(spec, limit))
    assert tight.arena.size_bytes <= limit == tight.memory.limit_bytes
    assert tight.memory.recomputed
    assert 0.0 < tight.memory.extra_work < 0.34
    assert_same_training(kept, tight)


def test_a_limit_that_is_not_reached_changes_nothing(backend: OpenCLBackend) -> None:
    graph = WITH_DROPOUT
    spec = TrainingSpec(BATCH, Sgd())
    kept = backend.trainer(graph, spec)
    roomy = backend.trainer(graph, limited(spec, kept.arena.size_bytes))
    assert roomy.memory.recomputed == ()
    assert roomy.program.kernels == kept.program.kernels


def test_a_lower_limit_costs_more_work(backend: OpenCLBackend) -> None:
    graph, spec = WITH_DROPOUT, TrainingSpec(8, Sgd())
    full = backend.trainer(graph, spec).arena.size_bytes
    work = [
        backend.trainer(graph, limited(spec, int(full * share))).memory.extra_work
        for share in (0.9, 0.75, 0.6)
    ]
    assert work == sorted(set(work))


def test_a_limit_too_low_says_how_much_is_needed_and_what_to_do(backend: OpenCLBackend) -> None:
    graph, spec = WITH_DROPOUT, TrainingSpec(8, Sgd())
    with pytest.raises(ConfigError, match="smaller batch") as caught:
        backend.trainer(graph, limited(spec, 10_000))
    text = str(caught.value)
    assert "10,000 bytes" in text
    needed = int(text.split("needs ")[1].split(" bytes")[0].replace(",", ""))
    assert backend.trainer(graph, limited(spec, needed)).arena.size_bytes <= needed


def test_a_limit_is_at_least_one_byte() -> None:
    with pytest.raises(ConfigError, match="memory_limit_bytes is 0"):
        TrainingSpec(8, Sgd(), memory_limit_bytes=0)
