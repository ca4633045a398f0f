from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from emberfleet.core.errors import ConfigError
from emberfleet.core.graph import Graph
from emberfleet.core.quantization import quantization_points
from emberfleet.engine.backend import TrainingSpec
from emberfleet.engine.numpy_backend import program as program_module
from emberfleet.engine.numpy_backend import recomputation
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.engine.numpy_backend.trainer import NumpyTrainer
from emberfleet.engine.optimizers import Sgd
from emberfleet.train.models import mobilenet, resnet, small_squeezenet, squeezenet_1_1
from tests.engine.networks import MOBILE_NETWORKS, NETWORKS, random_batch, single_tensors

BATCH = 3
ALL = {**NETWORKS, **MOBILE_NETWORKS}
MODELS: Mapping[str, Graph] = {
    "small": small_squeezenet(28, 1, 10),
    "bypass and dropout": small_squeezenet(28, 1, 10, bypass=True, dropout=0.4),
    "no batch norm": small_squeezenet(28, 1, 10, batch_norm=False),
    "mobilenet": mobilenet(24, 1, 10, 0.25),
    "resnet": resnet(14, 28, 1, 10, 0.5),
    "squeezenet 1.1": squeezenet_1_1(10, 64),
}


def loaded(graph: Graph, spec: TrainingSpec, limit_bytes: int | None = None) -> NumpyTrainer:
    values = {name: getattr(spec, name) for name in spec.__slots__}
    trainer = NumpyBackend(threads=1).trainer(
        graph, TrainingSpec(**{**values, "memory_limit_bytes": limit_bytes})
    )
    assert isinstance(trainer, NumpyTrainer)
    tensors: dict[str, Any] = dict(single_tensors(graph))
    if spec.fake_quantize:
        tensors |= {name: np.array([-2.0, 2.0], np.float32) for name in quantization_points(graph).values()}
    trainer.load(tensors)
    return trainer


def assert_same_bits(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def assert_same_training(first: NumpyTrainer, second: NumpyTrainer) -> None:
    """Gradients, then three steps: losses, parameters, statistics, ranges and slots, bit for bit."""
    for step in range(3):
        x, labels = random_batch(first.graph, BATCH, step)
        images = x.astype(np.float32)
        assert_same_bits(second.gradients(images, labels), first.gradients(images, labels))
        loss = first.step(images, labels, 1e-4)
        assert np.isfinite(loss)
        assert second.step(images, labels, 1e-4) == loss
    assert_same_bits(second.tensors(), first.tensors())
    assert_same_bits(second.optimizer_state(), first.optimizer_state())


@pytest.fixture
def everything_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute every segment twice that may be."""

    def choose(graph: Graph, steps: Any, *others: Any) -> tuple[recomputation.Segment, ...]:
        return tuple(recomputation.segments(steps))

    monkeypatch.setattr(program_module, "choose", choose)


@pytest.mark.usefixtures("everything_twice")
@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
@pytest.mark.parametrize("name", [*ALL, *MODELS])
def test_training_keeps_every_bit_when_all_is_computed_twice(name: str, quantized: bool) -> None:
    graph = {**ALL, **MODELS}[name]
    spec = TrainingSpec(BATCH, Sgd(momentum=0.9), fake_quantize=quantized, range_momentum=0.5, seed=3)
    twice = loaded(graph, spec, 1)
    overwrites_its_image = name == "shared pools"
    assert bool(twice.memory.recomputed) is not overwrites_its_image
    assert_same_training(loaded(graph, spec), twice)


@pytest.mark.usefixtures("everything_twice")
@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize("prefix", ["fire5", "fire3/squeeze", "conv1"])
def test_training_a_part_keeps_every_bit(prefix: str, statistics: bool) -> None:
    graph = MODELS["bypass and dropout"]
    names = frozenset(name for name in graph.parameters if name.startswith(prefix))
    spec = TrainingSpec(BATCH, Sgd(), names, fake_quantize=True, batch_statistics=statistics)
    assert_same_training(loaded(graph, spec), loaded(graph, spec, 1))


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
@pytest.mark.parametrize("graph", MODELS.values(), ids=MODELS)
def test_under_a_limit_the_arena_fits_and_training_keeps_every_bit(graph: Graph, quantized: bool) -> None:
    spec = TrainingSpec(BATCH, Sgd(momentum=0.9), fake_quantize=quantized, seed=3)
    kept = loaded(graph, spec)
    assert kept.memory.recomputed == ()
    limit = int(kept.arena.size_bytes * 0.85)
    tight = loaded(graph, spec, limit)
    assert tight.arena.size_bytes <= limit == tight.memory.limit_bytes
    assert tight.memory.recomputed
    assert 0.0 < tight.memory.extra_work < 0.34
    assert tight.arena.size_bytes <= 1.15 * tight.arena.bound_bytes
    assert_same_training(kept, tight)


def test_a_limit_too_low_says_how_much_is_needed() -> None:
    graph, spec = MODELS["small"], TrainingSpec(BATCH, Sgd())
    with pytest.raises(ConfigError, match="smaller batch") as caught:
        loaded(graph, spec, 1)
    needed = int(str(caught.value).split("needs ")[1].split(" bytes")[0].replace(",", ""))
    assert loaded(graph, spec, needed).arena.size_bytes <= needed < loaded(graph, spec).arena.size_bytes
