from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from emberfleet.core.arrays import Float32, Int64
from emberfleet.core.errors import ConfigError, ShapeError
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import Conv2D
from emberfleet.core.quantization import quantization_points
from emberfleet.engine.backend import Trainer, TrainingSpec
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.engine.opencl import conv2d
from emberfleet.engine.opencl.backend import OpenCLBackend
from emberfleet.engine.opencl.parameters import ParameterBlock
from emberfleet.engine.opencl.program import Program
from emberfleet.engine.optimizers import Adadelta, Adagrad, Adam, AdamW, Optimizer, RmsProp, Sgd
from tests.core.networks import bypass_network, mobile_network, random_tensors
from tests.engine.networks import linear_network, random_batch, residual_network, single_tensors
from tests.engine.opencl.networks import GRAPHS, WINDOWS, plain_network, wide_network
from tests.engine.tolerance import tolerance

BATCH = 3
SUMS = 4000
"""Lengths of all sums on the longest way through one of the test networks, added up."""


def batch_of(graph: Graph, seed: int = 0) -> tuple[Float32, Int64]:
    x, labels = random_batch(graph, BATCH, seed)
    return x.astype(np.float32), labels


def reference(
    graph: Graph, spec: TrainingSpec, tensors: Mapping[str, Any], dtype: Any = np.float64
) -> Trainer:
    trainer = NumpyBackend(dtype).trainer(graph, spec)
    trainer.load({name: np.asarray(value, dtype) for name, value in tensors.items()})
    return trainer


def trained(backend: OpenCLBackend, graph: Graph, spec: TrainingSpec, tensors: Mapping[str, Any]) -> Trainer:
    trainer = backend.trainer(graph, spec)
    trainer.load(tensors)
    return trainer


def assert_near(found: Mapping[str, Float32], expected: Mapping[str, Float32], allowed: float) -> None:
    """Every tensor within `allowed` of the largest value of all of them, the scale errors come from."""
    assert list(found) == list(expected)
    scale = max(float(np.abs(value).max()) for value in expected.values())
    for name, value in expected.items():
        assert found[name].shape == value.shape
        worst = float(np.abs(found[name].astype(np.float64) - value).max()) / scale
        assert worst <= allowed, f"{name}: off by {worst:.2e}, {allowed:.2e} allowed"


@pytest.mark.parametrize("statistics", [True, False], ids=["batch statistics", "running statistics"])
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_gradients_are_those_of_the_reference(backend: OpenCLBackend, graph: Graph, statistics: bool) -> None:
    spec = TrainingSpec(BATCH, Sgd(), batch_statistics=statistics, label_smoothing=0.1, seed=3)
    tensors = single_tensors(graph)
    x, labels = batch_of(graph)
    found = trained(backend, graph, spec, tensors).gradients(x, labels)
    expected = reference(graph, spec, tensors).gradients(x, labels)
    assert_near(found, expected, tolerance(SUMS, np.float32))


@pytest.mark.parametrize("graph", WINDOWS.values(), ids=WINDOWS)
def test_convolutions_of_every_shape_have_the_gradients_of_the_reference(
    backend: OpenCLBackend, graph: Graph
) -> None:
    spec = TrainingSpec(BATCH, Sgd())
    tensors = single_tensors(graph)
    x, labels = batch_of(graph)
    found = trained(backend, graph, spec, tensors).gradients(x, labels)
    expected = reference(graph, spec, tensors).gradients(x, labels)
    assert_near(found, expected, tolerance(SUMS, np.float32))


def test_gradients_change_nothing(backend: OpenCLBackend) -> None:
    graph = wide_network()
    trainer = trained(backend, graph, TrainingSpec(BATCH, Adam()), single_tensors(graph))
    before, x = trainer.tensors(), batch_of(graph)
    first = trainer.gradients(*x)
    after, second = trainer.tensors(), trainer.gradients(*x)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value)


OPTIMIZERS: tuple[Optimizer, ...] = (
    Sgd(),
    Sgd(momentum=0.9, weight_decay=0.01),
    Sgd(momentum=0.9, nesterov=True),
    Adam(weight_decay=0.01),
    AdamW(weight_decay=0.1),
    RmsProp(),
    RmsProp(momentum=0.9, weight_decay=0.01),
    Adagrad(weight_decay=0.01),
    Adadelta(weight_decay=0.01),
)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_four_steps_follow_the_reference(backend: OpenCLBackend, optimizer: Optimizer) -> None:
    graph = bypass_network(side=7)
    spec = TrainingSpec(BATCH, optimizer, seed=5)
    tensors = single_tensors(graph)
    ours, theirs = trained(backend, graph, spec, tensors), reference(graph, spec, tensors)
    # Optimizers that divide by the gradient's size blow up rounding where a gradient is nearly zero: with a
    # small rate their steps stay far below the tolerance's scale.
    for step in range(4):
        x, labels = batch_of(graph, step)
        rate = 1e-3 * (step + 1)
        assert ours.step(x, labels, rate) == pytest.approx(theirs.step(x, labels, rate), rel=1e-4)
    assert_near(ours.tensors(), theirs.tensors(), tolerance(SUMS, np.float32))
    found, expected = ours.optimizer_state(), theirs.optimizer_state()
    assert_near(found, expected, tolerance(SUMS, np.float32))


@pytest.mark.parametrize(
    "optimizer", [Sgd(momentum=0.9, weight_decay=0.01), AdamW(weight_decay=0.1)], ids=["sgd", "adamw"]
)
def test_steps_with_a_proximal_term_follow_the_reference(
    backend: OpenCLBackend, optimizer: Optimizer
) -> None:
    graph = bypass_network(side=7)
    names = frozenset(name for name in graph.parameters if "conv1" not in name)
    spec = TrainingSpec(BATCH, optimizer, names, seed=5, proximal=3.0)
    tensors = single_tensors(graph)
    ours, theirs = trained(backend, graph, spec, tensors), reference(graph, spec, tensors)
    for step in range(4):
        x, labels = batch_of(graph, step)
        rate = 1e-3 * (step + 1)
        assert ours.step(x, labels, rate) == pytest.approx(theirs.step(x, labels, rate), rel=1e-4)
    assert_near(ours.tensors(), theirs.tensors(), tolerance(SUMS, np.float32))
    found, expected = ours.optimizer_state(), theirs.optimizer_state()
    assert_near(found, expected, tolerance(SUMS, np.float32))
    batch = batch_of(graph, 4)
    assert_near(ours.gradients(*batch), theirs.gradients(*batch), tolerance(SUMS, np.float32))
    # Without the term the gradients are others: the agreement above is not of two that forgot it.
    without = reference(graph, replace(spec, proximal=0.0), theirs.tensors())
    without.load_optimizer_state(theirs.optimizer_state())
    bare, expected = without.gradients(*batch), theirs.gradients(*batch)
    apart = max(float(np.abs(value - bare[name]).max()) for name, value in expected.items())
    assert apart > 10 * tolerance(SUMS, np.float32)


def test_without_a_proximal_term_there_is_no_anchor_and_no_other_kernel(backend: OpenCLBackend) -> None:
    graph = bypass_network(side=7)
    plain, near = (
        backend.trainer(graph, TrainingSpec(BATCH, Adam(), proximal=proximal)) for proximal in (0.0, 0.1)
    )
    assert plain.program.size_bytes("anchor") == 0
    assert near.program.size_bytes("anchor") == near.program.size_bytes("params")
    assert plain.program.kernels == near.program.kernels
    update = next(call for call in plain.program.calls if call.kernel == "update_f32")
    assert "anchor" not in update.arguments


def test_training_goes_on_with_the_same_bits(backend: OpenCLBackend) -> None:
    graph = bypass_network(side=7)
    spec = TrainingSpec(BATCH, Adam(), seed=5)
    first = trained(backend, graph, spec, single_tensors(graph))
    for step in range(2):
        first.step(*batch_of(graph, step), 0.01)
    second = trained(backend, graph, spec, first.tensors())
    second.load_optimizer_state(first.optimizer_state())
    assert first.step(*batch_of(graph, 2), 0.01) == second.step(*batch_of(graph, 2), 0.01)
    found = second.tensors()
    for name, value in first.tensors().items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_padding_between_parameters_stays_zero(backend: OpenCLBackend, graph: Graph) -> None:
    trainer = backend.trainer(graph, TrainingSpec(BATCH, Sgd(momentum=0.9)))
    trainer.load(single_tensors(graph))
    for step in range(2):
        trainer.step(*batch_of(graph, step), 0.01)
    block = ParameterBlock(graph.parameters, trainer.program.vector)
    flat = trainer.program.read("params", block.floats)
    np.testing.assert_array_equal(flat, block.pack(trainer.tensors()))


@pytest.mark.parametrize(
    "make", [wide_network, plain_network, bypass_network, mobile_network, residual_network]
)
def test_training_rounded_to_8_bits_follows_the_reference(backend: OpenCLBackend, make: Any) -> None:
    graph: Graph = make()
    tensors = random_tensors(graph)
    spec = TrainingSpec(BATCH, Sgd(), fake_quantize=True, range_momentum=0.5)
    ours, theirs = trained(backend, graph, spec, tensors), reference(graph, spec, tensors, np.float32)
    x, labels = batch_of(graph)
    found, expected = ours.gradients(x, labels), theirs.gradients(x, labels)
    # A value on the edge between two codes may fall to either side: gradients agree but for a few of them.
    flat = [np.concatenate([g[name].reshape(-1) for name in expected]) for g in (found, expected)]
    cosine = flat[0] @ flat[1] / np.sqrt((flat[0] @ flat[0]) * (flat[1] @ flat[1]))
    assert cosine > 0.999
    assert ours.step(x, labels, 0.01) == pytest.approx(theirs.step(x, labels, 0.01), rel=0.01)
    after, before = ours.tensors(), theirs.tensors()
    assert list(after) == list(before)
    for name in set(quantization_points(graph).values()):
        np.testing.assert_allclose(after[name], before[name], rtol=0.01, atol=0.01)
        assert (after[name] != tensors[name]).any() == (name != "input/range")


@pytest.mark.parametrize(("channels", "pixels"), [(16, 32), (256, 32), (512, 16), (1024, 32)])
def test_a_weight_gradient_walks_rows_that_the_fast_cache_keeps(
    backend: OpenCLBackend, channels: int, pixels: int
) -> None:
    program = Program(backend.device, backend.device.limits.vector_width, 16)
    x, dy = program.images("x", (16, 16, channels)), program.images("dy", (16, 16, channels))
    conv2d.backward_weight(program, x, dy, conv2d.Window((1, 1)), (0, channels * channels))
    (call,) = program.calls
    assert isinstance(call.work, conv2d.WeightWork)
    assert call.work.shape.columns == pixels
    assert call.work.shape.rows * pixels == 16 * 16 * 16


def test_only_what_may_learn_changes(backend: OpenCLBackend) -> None:
    graph = wide_network()
    names = frozenset(name for name in graph.parameters if name.startswith(("classifier", "fire3/norm")))
    spec = TrainingSpec(BATCH, Adam(), trainable=names, batch_statistics=False)
    tensors = single_tensors(graph)
    ours, theirs = trained(backend, graph, spec, tensors), reference(graph, spec, tensors)
    x, labels = batch_of(graph)
    assert_near(ours.gradients(x, labels), theirs.gradients(x, labels), tolerance(SUMS, np.float32))
    ours.step(x, labels, 0.01)
    for name, value in ours.tensors().items():
        assert (value != tensors[name]).any() == (name in names), name


def test_backward_stops_where_nothing_learns(backend: OpenCLBackend) -> None:
    graph = wide_network()
    head = frozenset({"classifier/weight", "classifier/bias"})
    whole = backend.trainer(graph, TrainingSpec(BATCH, Sgd()))
    last = backend.trainer(graph, TrainingSpec(BATCH, Sgd(), trainable=head, batch_statistics=False))
    kinds = last.program.kernels
    assert kinds.count("conv2d_backward_weight_f32") == 1
    assert kinds.count("conv2d_forward_f32") == sum(isinstance(node, Conv2D) for node in graph.nodes)
    assert len(kinds) < len(whole.program.kernels) / 2


def test_a_trainer_that_learns_nothing_still_gives_the_loss(backend: OpenCLBackend) -> None:
    graph = linear_network()
    spec = TrainingSpec(BATCH, Sgd(), trainable=frozenset())
    tensors = single_tensors(graph)
    x, labels = batch_of(graph)
    found = trained(backend, graph, spec, tensors)
    assert found.step(x, labels, 1.0) == pytest.approx(reference(graph, spec, tensors).step(x, labels, 1.0))
    assert found.gradients(x, labels) == {}


def test_a_network_may_be_dropped_while_it_runs(backend: OpenCLBackend) -> None:
    for _ in range(40):
        trainer = backend.trainer(wide_network(), TrainingSpec(64, Sgd()))
        trainer.program.run()
        del trainer
        np.ones(1 << 20, np.float32)


def test_the_arena_is_close_to_its_bound(backend: OpenCLBackend) -> None:
    arena = backend.trainer(wide_network(), TrainingSpec(BATCH, Sgd())).arena
    assert arena.bound_bytes <= arena.size_bytes <= 1.15 * arena.bound_bytes


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (np.zeros((BATCH, 3, 5, 2), np.float32), np.zeros(BATCH, int), "images are"),
        (np.zeros((2, 3, 5, 1), np.float32), np.zeros(2, int), "images are"),
        (np.zeros((BATCH, 3, 5, 1), np.float32), np.zeros((BATCH, 2), int), "labels are"),
        (np.zeros((BATCH, 3, 5, 1), np.float32), np.array([0, 3, 0]), "label 3 at index 1"),
        (np.zeros((BATCH, 3, 5, 1), np.float32), np.array([0, -1, 0]), "label -1 at index 1"),
    ],
)
def test_a_batch_that_does_not_fit_never_reaches_the_device(
    backend: OpenCLBackend, x: Any, labels: Any, message: str
) -> None:
    graph = linear_network()
    trainer = trained(backend, graph, TrainingSpec(BATCH, Sgd()), single_tensors(graph))
    with pytest.raises(ShapeError, match=message):
        trainer.step(x, labels, 0.1)


def test_missing_weights_ranges_and_slots_are_named(backend: OpenCLBackend) -> None:
    graph = linear_network()
    trainer = backend.trainer(graph, TrainingSpec(BATCH, Adam(), fake_quantize=True))
    x, labels = batch_of(graph)
    with pytest.raises(ShapeError, match="load tensors first"):
        trainer.step(x, labels, 0.1)
    with pytest.raises(ShapeError, match=r"range 'image/range' is missing"):
        trainer.load(single_tensors(graph))
    with pytest.raises(ShapeError, match="'step' is missing"):
        trainer.load_optimizer_state({})
    with pytest.raises(ShapeError, match=r"'slot0/dense/weight': missing"):
        trainer.load_optimizer_state({"step": np.zeros(1, np.float32)})


def test_an_optimizer_without_a_rule_is_refused(backend: OpenCLBackend) -> None:
    class Other:
        name, slots, weight_decay = "other", 0, 0.0

        def apply(self, *_: Any) -> None: ...

    with pytest.raises(ConfigError, match="does not know the optimizer"):
        backend.trainer(linear_network(), TrainingSpec(BATCH, cast("Optimizer", Other())))
