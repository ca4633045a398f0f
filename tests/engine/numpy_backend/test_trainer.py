from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from emberfleet.core.arrays import Float32
from emberfleet.core.errors import ConfigError, ShapeError
from emberfleet.core.graph import Graph
from emberfleet.core.nodes import ClippedRelu, DepthwiseConv2D, Input, Reshape
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.core.quantization import QuantParams, fake_quantize_weights, quantization_points
from emberfleet.engine.backend import TrainingSpec
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.engine.numpy_backend.trainer import NumpyTrainer
from emberfleet.engine.optimizers import Adadelta, Adagrad, Adam, AdamW, Optimizer, RmsProp, Sgd
from emberfleet.train.initialisation import initial_tensors
from emberfleet.train.models import mobilenet, resnet
from tests.core.networks import bypass_network, random_tensors
from tests.engine.networks import (
    MOBILE_NETWORKS,
    NETWORKS,
    double_tensors,
    linear_network,
    random_batch,
    single_tensors,
)
from tests.engine.tolerance import tolerance

BATCH = 4
ALL = {**NETWORKS, **MOBILE_NETWORKS}
SUMS = 4000
"""Lengths of all sums on the longest way through one of the test networks, added up."""


def single(x: Any) -> Float32:
    return cast("Float32", np.asarray(x, np.float32))


def make(graph: Graph, spec: TrainingSpec, dtype: Any = np.float32) -> NumpyTrainer:
    trainer = NumpyBackend(dtype).trainer(graph, spec)
    assert isinstance(trainer, NumpyTrainer)
    return trainer


def losses(
    trainer: NumpyTrainer, tensors: dict[str, Any], x: Any, labels: Any, place: tuple[str, int]
) -> tuple[float, float]:
    """Loss with one parameter moved up and down by 1e-6, under the same dropout mask."""
    name, index = place
    found = []
    for sign in (1.0, -1.0):
        moved = {key: value.copy() for key, value in tensors.items()}
        moved[name].reshape(-1)[index] += sign * 1e-6
        trainer.load(moved)
        trainer.load_optimizer_state({"step": np.zeros(1, np.float32)})
        found.append(trainer.step(x, labels, 0.0))
    return found[0], found[1]


@pytest.mark.parametrize("statistics", [True, False], ids=["batch statistics", "running statistics"])
@pytest.mark.parametrize("graph", ALL.values(), ids=ALL)
def test_gradients_are_central_differences(graph: Graph, statistics: bool) -> None:
    spec = TrainingSpec(BATCH, Sgd(), batch_statistics=statistics, label_smoothing=0.1, seed=3)
    trainer = make(graph, spec, np.float64)
    tensors: dict[str, Any] = double_tensors(graph)
    x, labels = random_batch(graph, BATCH)
    trainer.load(tensors)
    gradients = trainer.gradients(cast("Float32", x), labels)
    assert list(gradients) == list(graph.parameters)
    rng = np.random.default_rng(9)
    for name, gradient in gradients.items():
        for index in rng.choice(gradient.size, min(3, gradient.size), replace=False):
            up, down = losses(trainer, tensors, x, labels, (name, int(index)))
            assert gradient.reshape(-1)[index] == pytest.approx((up - down) / 2e-6, abs=2e-7), name


@pytest.mark.parametrize("trainable", [None, frozenset({"classifier/weight", "conv1/weight"})])
def test_the_proximal_gradient_is_that_of_the_loss_and_half_the_squared_distance(
    trainable: frozenset[str] | None,
) -> None:
    graph, strength = bypass_network(), 0.7
    trainer = make(graph, TrainingSpec(BATCH, Sgd(), trainable, seed=3, proximal=strength), np.float64)
    start: dict[str, Any] = double_tensors(graph)
    x, labels = random_batch(graph, BATCH)
    trainer.load(start)
    for _ in range(3):
        trainer.step(cast("Float32", x), labels, 0.5)
    trainer.load_optimizer_state({"step": np.zeros(1, np.float32)})
    moved: dict[str, Any] = trainer.tensors()
    without = make(graph, TrainingSpec(BATCH, Sgd(), seed=3), np.float64)

    def objective(tensors: dict[str, Any]) -> float:
        without.load(tensors)
        without.load_optimizer_state({"step": np.zeros(1, np.float32)})
        loss = without.step(cast("Float32", x), labels, 0.0)
        return loss + strength / 2 * sum(
            float(((tensors[name] - start[name]) ** 2).sum()) for name in graph.parameters
        )

    found = trainer.gradients(cast("Float32", x), labels)
    assert set(found) == (trainable or set(graph.parameters))
    rng = np.random.default_rng(9)
    for name, gradient in found.items():
        for index in rng.choice(gradient.size, min(3, gradient.size), replace=False):
            up, down = ({key: value.copy() for key, value in moved.items()} for _ in range(2))
            up[name].reshape(-1)[index] += 1e-6
            down[name].reshape(-1)[index] -= 1e-6
            expected = (objective(up) - objective(down)) / 2e-6
            assert gradient.reshape(-1)[index] == pytest.approx(expected, abs=4e-7), name
    pulled = max(float(np.abs(moved[name] - start[name]).max()) for name in found)
    assert strength * pulled > 1e-3, "the test says nothing where the weights have not moved"


@pytest.mark.parametrize("optimizer", [Sgd(momentum=0.9, weight_decay=0.01), Adam(), AdamW(weight_decay=0.1)])
def test_a_proximal_step_is_the_optimizers_step_on_the_proximal_gradient(optimizer: Optimizer) -> None:
    graph = linear_network()
    x, labels = random_batch(graph, BATCH)
    trainer = make(graph, TrainingSpec(BATCH, optimizer, proximal=0.5), np.float64)
    trainer.load(cast("Any", double_tensors(graph)))
    trainer.step(cast("Float32", x), labels, 0.1)
    before = trainer.tensors()
    gradients = trainer.gradients(cast("Float32", x), labels)
    state = trainer.optimizer_state()
    trainer.step(cast("Float32", x), labels, 0.1)
    after = trainer.tensors()
    for name, gradient in gradients.items():
        value = before[name].copy()
        slots = [state[f"slot{slot}/{name}"].copy() for slot in range(optimizer.slots)]
        optimizer.apply(value, gradient, slots, 0.1, 2, name.endswith("/weight"))
        np.testing.assert_allclose(after[name], value, rtol=1e-12, atol=1e-15)


def test_the_anchor_is_what_was_loaded_last() -> None:
    graph = linear_network()
    x, labels = random_batch(graph, BATCH)
    near = make(graph, TrainingSpec(BATCH, Sgd(), proximal=5.0))
    plain = make(graph, TrainingSpec(BATCH, Sgd()))
    tensors = single_tensors(graph)
    for trainer in (near, plain):
        trainer.load(tensors)
        trainer.step(single(x), labels, 0.1)
    moved = near.tensors()
    for name, value in plain.tensors().items():
        np.testing.assert_array_equal(moved[name], value, "the first step begins at the anchor")
    for trainer in (near, plain):
        trainer.load(moved)
    assert near.step(single(x), labels, 0.1) == plain.step(single(x), labels, 0.1)
    for name, value in plain.tensors().items():
        np.testing.assert_array_equal(near.tensors()[name], value)


@pytest.mark.parametrize("graph", ALL.values(), ids=ALL)
def test_float32_gradients_are_those_of_float64(graph: Graph) -> None:
    spec = TrainingSpec(BATCH, Sgd(), seed=3)
    x, labels = random_batch(graph, BATCH)
    wide, narrow = make(graph, spec, np.float64), make(graph, spec)
    tensors = single_tensors(graph)
    wide.load(tensors)
    narrow.load(tensors)
    expected = wide.gradients(cast("Float32", single(x).astype(np.float64)), labels)
    for name, gradient in narrow.gradients(single(x), labels).items():
        assert gradient.dtype == np.float32
        scale = max(float(np.abs(g).max()) for g in expected.values())
        assert np.abs(gradient - expected[name]).max() <= tolerance(SUMS, np.float32) * scale, name


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize(
    "kept", ["classifier", "fire2", "/gamma", "/beta", "/bias", "squeeze/weight", "conv1", "nothing"]
)
def test_a_subset_learns_by_the_same_gradients_and_the_rest_stays(kept: str, statistics: bool) -> None:
    graph = bypass_network()
    x, labels = random_batch(graph, BATCH)
    names = frozenset(name for name in graph.parameters if kept in name)
    whole = TrainingSpec(BATCH, Sgd(), seed=3, batch_statistics=statistics)
    everything, part = make(graph, whole), make(graph, replace(whole, trainable=names))
    for trainer in (everything, part):
        trainer.load(single_tensors(graph))
    found = part.gradients(single(x), labels)
    expected = everything.gradients(single(x), labels)
    assert set(found) == names
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
    part.step(single(x), labels, 0.5)
    after = part.tensors()
    for name, before in single_tensors(graph).items():
        if name not in names and name in graph.parameters:
            np.testing.assert_array_equal(after[name], before)


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize(
    "kept", ["classifier", "block2/depthwise/", "depthwise", "/gamma", "block1", "block2", "stem/weight"]
)
def test_a_subset_of_a_mobile_network_learns_by_the_same_gradients(kept: str, statistics: bool) -> None:
    graph = MOBILE_NETWORKS["mobile"]
    x, labels = random_batch(graph, BATCH)
    names = frozenset(name for name in graph.parameters if kept in name)
    whole = TrainingSpec(BATCH, Sgd(), batch_statistics=statistics)
    everything, part = make(graph, whole), make(graph, replace(whole, trainable=names))
    for trainer in (everything, part):
        trainer.load(single_tensors(graph))
    found, expected = (trainer.gradients(single(x), labels) for trainer in (part, everything))
    assert set(found) == names
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fake_quantize", [False, True], ids=["float", "quantized"])
@pytest.mark.parametrize(
    "graph", [mobilenet(12, 3, 4, 0.25), resnet(8, 28, 1, 4)], ids=["mobilenet", "resnet"]
)
def test_mobilenets_and_resnets_learn_to_tell_a_batch_apart(graph: Graph, fake_quantize: bool) -> None:
    side, _, channels = graph.input.shape
    pixels = Preprocessing(side, side, channels, (0.5,) * channels, (0.25,) * channels)
    tensors: dict[str, Any] = initial_tensors(graph, 0, pixels)
    for name in set(quantization_points(graph).values()) if fake_quantize else ():
        tensors[name] = np.array([-4, 4], np.float32)
    trainer = make(graph, TrainingSpec(8, Adam(), fake_quantize=fake_quantize))
    trainer.load(tensors)
    x, labels = random_batch(graph, 8)
    seen = [trainer.step(single(x), labels, 0.003) for _ in range(12)]
    assert seen[0] > 1.0
    assert np.mean(seen[-3:]) < 0.5 * seen[0]


def test_backward_stops_where_nothing_upstream_learns() -> None:
    graph, batch = bypass_network(), 1024
    head = make(graph, TrainingSpec(batch, Sgd(), trainable=frozenset({"classifier/weight"})))
    full = make(graph, TrainingSpec(batch, Sgd()))
    backward = {step.node.name for step in head._program.steps if step.site.doutput is not None}
    assert backward == {"classifier", "average"}
    assert head.arena.size_bytes < 0.6 * full.arena.size_bytes


@pytest.mark.parametrize(
    "optimizer",
    [Sgd(0.9, True, 1e-4), Adam(), AdamW(), RmsProp(), Adagrad(), Adadelta()],
    ids=lambda o: o.name,
)
@pytest.mark.parametrize(
    "graph",
    [NETWORKS["tangled"], NETWORKS["fire with bypass"], MOBILE_NETWORKS["residual"]],
    ids=["tangled", "fire", "residual"],
)
def test_the_loss_falls(graph: Graph, optimizer: Optimizer) -> None:
    trainer = make(graph, TrainingSpec(BATCH, optimizer))
    trainer.load(single_tensors(graph))
    x, labels = random_batch(graph, BATCH)
    rate = {"adadelta": 10.0, "sgd": 0.05}.get(optimizer.name, 0.01)
    seen = [trainer.step(single(x), labels, rate) for _ in range(30)]
    assert np.mean(seen[-5:]) < 0.8 * np.mean(seen[:5])


def test_training_is_reproducible_and_its_dropout_follows_the_seed() -> None:
    graph = bypass_network()
    x, labels = random_batch(graph, BATCH)

    def train(seed: int) -> dict[str, Float32]:
        trainer = make(graph, TrainingSpec(BATCH, Adam(), seed=seed))
        trainer.load(single_tensors(graph))
        for _ in range(3):
            trainer.step(single(x), labels, 0.01)
        return trainer.tensors()

    first, again, other = train(1), train(1), train(2)
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    assert any(not np.array_equal(value, other[name]) for name, value in first.items())


@pytest.mark.parametrize("fake_quantize", [False, True])
def test_training_resumes_to_the_same_bits(fake_quantize: bool) -> None:
    graph = bypass_network()
    spec = TrainingSpec(BATCH, Sgd(momentum=0.9), fake_quantize=fake_quantize)
    x, labels = random_batch(graph, BATCH)
    straight = make(graph, spec)
    straight.load(random_tensors(graph))
    for _ in range(2):
        straight.step(single(x), labels, 0.01)
    resumed = make(graph, spec)
    resumed.load(straight.tensors())
    resumed.load_optimizer_state(straight.optimizer_state())
    assert straight.step(single(x), labels, 0.01) == resumed.step(single(x), labels, 0.01)
    for name, value in straight.tensors().items():
        np.testing.assert_array_equal(value, resumed.tensors()[name])


def test_running_statistics_move_towards_the_batch_and_gradients_alone_move_nothing() -> None:
    graph = bypass_network()
    x, labels = random_batch(graph, BATCH)
    trainer = make(graph, TrainingSpec(BATCH, Sgd()), np.float64)
    before: dict[str, Any] = double_tensors(graph)
    trainer.load(before)
    trainer.gradients(cast("Float32", x), labels)
    for name, value in trainer.tensors().items():
        np.testing.assert_array_equal(value, before[name])
    trainer.step(cast("Float32", x), labels, 0.0)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    conv = np.einsum("nhwcij,oijc->nhwo", windows, before["conv1/weight"]).reshape(-1, 8)
    after = trainer.tensors()
    for part, batch in (("mean", conv.mean(axis=0)), ("variance", conv.var(axis=0, ddof=1))):
        name = f"conv1/norm/{part}"
        np.testing.assert_allclose(after[name], 0.9 * before[name] + 0.1 * batch, rtol=1e-12)


def test_running_statistics_stay_without_batch_statistics() -> None:
    graph = bypass_network()
    trainer = make(graph, TrainingSpec(BATCH, Sgd(), batch_statistics=False))
    tensors = single_tensors(graph)
    trainer.load(tensors)
    x, labels = random_batch(graph, BATCH)
    trainer.step(single(x), labels, 0.1)
    for name in graph.state:
        np.testing.assert_array_equal(trainer.tensors()[name], tensors[name])


def test_ranges_move_after_use_and_that_of_the_input_stays() -> None:
    graph = linear_network()
    points = quantization_points(graph)
    assert set(points) == {"image", "dense"}
    tensors = single_tensors(graph)
    tensors[points["image"]] = np.array([-1, 1], np.float32)
    tensors[points["dense"]] = np.array([-0.5, 0.5], np.float32)
    x, labels = random_batch(graph, BATCH)
    trainer = make(graph, TrainingSpec(BATCH, Sgd(), fake_quantize=True, range_momentum=0.75))
    trainer.load(tensors)
    trainer.step(single(x), labels, 0.0)
    params = QuantParams.from_range(-1.0, 1.0)
    seen = params.dequantize(params.quantize(single(x))).reshape(BATCH, -1)
    weight = fake_quantize_weights(tensors["dense/weight"]).reshape(3, -1)
    y = seen @ weight.T + tensors["dense/bias"]
    after = trainer.tensors()
    np.testing.assert_array_equal(after[points["image"]], tensors[points["image"]])
    expected = 0.75 * np.array([-0.5, 0.5]) + 0.25 * np.array([y.min(), y.max()])
    np.testing.assert_allclose(after[points["dense"]], expected, rtol=1e-5)


def test_rounding_passes_gradients_straight_inside_the_range_and_stops_them_outside() -> None:
    graph = linear_network()
    points = quantization_points(graph)
    tensors = single_tensors(graph)
    tensors[points["image"]] = np.array([-4, 4], np.float32)
    tensors[points["dense"]] = np.array([-0.2, 0.2], np.float32)
    x, labels = random_batch(graph, BATCH)
    trainer = make(graph, TrainingSpec(BATCH, Sgd(), fake_quantize=True))
    trainer.load(tensors)
    found = trainer.gradients(single(x), labels)
    params = QuantParams.from_range(-4.0, 4.0)
    rows = params.dequantize(params.quantize(single(x))).reshape(BATCH, -1)
    weight = fake_quantize_weights(tensors["dense/weight"]).reshape(3, -1)
    y = rows @ weight.T + tensors["dense/bias"]
    out = QuantParams.from_range(-0.2, 0.2)
    inside = (y >= out.low) & (y <= out.high)
    assert inside.any()
    assert not inside.all()
    rounded = out.dequantize(out.quantize(y))
    softmax = np.exp(rounded) / np.exp(rounded).sum(axis=1, keepdims=True)
    dy = (softmax - np.eye(3)[labels]) / BATCH * inside
    np.testing.assert_allclose(found["dense/weight"].reshape(3, -1), dy.T @ rows, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["dense/bias"], dy.sum(axis=0), rtol=1e-4, atol=1e-6)


def test_a_clipped_relu_stops_gradients_by_what_it_saw_before_rounding() -> None:
    graph = Graph(
        (
            Input("image", (), (1, 1, 5)),
            DepthwiseConv2D("d", ("image",), 1, (1, 1)),
            ClippedRelu("clipped", ("d",), 1.0),
            Reshape("flat", ("clipped",), (5,)),
        )
    )
    tensors = single_tensors(graph)
    tensors |= {"d/weight": np.ones((5, 1, 1, 1), np.float32), "d/bias": np.zeros(5, np.float32)}
    tensors |= {"image/range": single([-2, 2]), "clipped/range": single([0, 8])}
    inside, coarse = QuantParams.from_range(-2, 2), QuantParams.from_range(0, 8)
    x = inside.dequantize(inside.quantize(single([-0.5, 0.016, 0.5, 0.996, 1.5])))
    rounded = coarse.dequantize(coarse.quantize(np.clip(x, 0, 1)))
    assert rounded[1] == 0.0
    assert rounded[3] > 1.0
    trainer = make(graph, TrainingSpec(1, Sgd(), fake_quantize=True))
    trainer.load(tensors)
    found = trainer.gradients(x.reshape(1, 1, 1, 5), np.array([4]))["d/bias"]
    expected = (np.exp(rounded) / np.exp(rounded).sum() - np.eye(5)[4]) * [0, 1, 1, 1, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_wide_ranges_and_fine_steps_give_nearly_the_gradients_of_no_rounding() -> None:
    graph = bypass_network()
    tensors = random_tensors(graph)
    x, labels = random_batch(graph, BATCH)
    for name in set(quantization_points(graph).values()):
        tensors[name] = np.array([-8, 8], np.float32)
    rounded = make(graph, TrainingSpec(BATCH, Sgd(), fake_quantize=True))
    plain = make(graph, TrainingSpec(BATCH, Sgd()))
    for trainer in (rounded, plain):
        trainer.load(tensors)
    expected = plain.gradients(single(x), labels)
    for name, gradient in rounded.gradients(single(x), labels).items():
        if gradient.size > 8 and name.endswith("weight"):
            cosine = np.vdot(gradient, expected[name]) / (
                np.linalg.norm(gradient) * np.linalg.norm(expected[name])
            )
            assert cosine > 0.9, name
    assert set(plain.tensors()) == set(rounded.tensors())


@pytest.mark.parametrize("graph", ALL.values(), ids=ALL)
def test_the_arena_is_close_to_the_fullest_moment_and_far_below_the_sum(graph: Graph) -> None:
    arena = make(graph, TrainingSpec(BATCH, Sgd())).arena
    assert arena.bound_bytes <= arena.size_bytes <= 1.25 * arena.bound_bytes
    assert len(set(arena.offsets.values())) < len(arena.offsets)


@pytest.mark.parametrize(
    ("x_shape", "labels", "message"),
    [
        ((3, 9, 9, 2), [0, 0, 0, 0], r"images are \(3, 9, 9, 2\), expected \(4, 9, 9, 2\)"),
        ((4, 9, 9, 1), [0, 0, 0, 0], r"images are \(4, 9, 9, 1\)"),
        ((4, 9, 9, 2), [0, 0, 0], r"labels are \(3,\), expected \(4,\)"),
        ((4, 9, 9, 2), [0, 0, 5, 0], "label 5 at index 2: expected 0 to 4"),
        ((4, 9, 9, 2), [0, -1, 0, 0], "label -1 at index 1"),
        ((4, 9, 9, 2), [0.0, 0.0, 0.0, 0.0], "labels are float64, expected integers"),
    ],
)
def test_batches_that_do_not_fit_are_refused(
    x_shape: tuple[int, ...], labels: list[Any], message: str
) -> None:
    graph = bypass_network()
    trainer = make(graph, TrainingSpec(BATCH, Sgd()))
    trainer.load(single_tensors(graph))
    with pytest.raises(ShapeError, match=message):
        trainer.step(np.zeros(x_shape, np.float32), np.array(labels), 0.1)


def test_a_trainer_says_what_it_lacks() -> None:
    graph = bypass_network()
    x, labels = random_batch(graph, BATCH)
    with pytest.raises(ShapeError, match="load tensors first"):
        make(graph, TrainingSpec(BATCH, Sgd())).step(single(x), labels, 0.1)
    with pytest.raises(ShapeError, match="calibrate"):
        make(graph, TrainingSpec(BATCH, Sgd(), fake_quantize=True)).load(single_tensors(graph))
    with pytest.raises(ShapeError, match="'nobody/weight'"):
        make(graph, TrainingSpec(BATCH, Sgd(), trainable=frozenset({"nobody/weight"})))
    adam = make(graph, TrainingSpec(BATCH, Adam()))
    with pytest.raises(ShapeError, match="slot0"):
        adam.load_optimizer_state({"step": np.zeros(1, np.float32)})
    with pytest.raises(ConfigError, match="batch is 0"):
        TrainingSpec(0, Sgd())
