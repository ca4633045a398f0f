"""Each method keeps its law: the function stays, the mean comes back, the error is never larger."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emberfleet.core.arrays import Float32
from emberfleet.core.graph import Graph
from emberfleet.core.quantization import QuantParams, fake_quantize, fake_quantize_weights
from emberfleet.engine.numpy_backend.activations import activations
from emberfleet.train.calibration.bias import correct_bias, round_activations
from emberfleet.train.calibration.equalisation import equalise, readers_of
from emberfleet.train.calibration.histogram import Histogram, Range
from emberfleet.train.calibration.inputs import absorb_preprocessing
from emberfleet.train.calibration.pools import spread_pools
from emberfleet.train.calibration.ranges import METHODS, calibrate, pooled_error
from emberfleet.train.calibration.rounding import (
    coarse_levels,
    conditional_factors,
    levels_of,
    patch_moments,
    round_weights,
)
from emberfleet.train.calibration.weights import clip_weights
from emberfleet.train.trained import TrainedModel
from tests.train.calibration.networks import fire_model, photos


@pytest.fixture
def model() -> TrainedModel:
    return fire_model()


@pytest.fixture
def x(model: TrainedModel) -> Float32:
    return model.preprocessing.apply(photos())


def scores(graph: Graph, tensors: dict[str, Float32], x: Float32) -> Float32:
    held = {name: tensors[name] for name in graph.parameters}
    return activations(graph, held, x, [graph.output.name])[graph.output.name]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("relu", [True, False])
def test_the_mse_range_never_has_more_error_than_the_extremes(seed: int, relu: bool) -> None:
    values = np.random.default_rng(seed).normal(0, 1, 20_000).astype(np.float32)
    values[:3] = 12.0 if seed % 2 else 1.0
    values = np.maximum(values, 0) if relu else values
    counted = Histogram(float(values.min()), float(values.max()))
    counted.add(values)

    def error(chosen: Range) -> float:
        rounded = fake_quantize(values.astype(np.float64), QuantParams.from_range(*chosen))
        return float(((rounded - values) ** 2).sum())

    best = counted.least_error()
    assert error(best) <= error(Range(float(values.min()), float(values.max()))) * 1.001


def test_the_mse_range_cuts_a_stray_value_off_a_million() -> None:
    counted = Histogram(0.0, 1.0)
    counted.add(np.linspace(0.0, 0.1, 1_000_000, dtype=np.float32))
    counted.add(np.array([1.0], np.float32))
    assert counted.least_error().high < 0.5


def test_a_percentile_of_a_histogram_leaves_that_share_out() -> None:
    values = np.arange(10_000, dtype=np.float32)
    counted = Histogram(0.0, 9_999.0)
    counted.add(values)
    assert counted.percentile(99.0).high == pytest.approx(9_900, abs=5)
    assert counted.percentile(100.0).high == pytest.approx(9_999, abs=5)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_every_range_and_keeps_the_inputs(
    model: TrainedModel, x: Float32, method: str
) -> None:
    found = calibrate(model.graph, model.tensors, x, method)
    assert replace(model, tensors={**model.tensors, **found}).quantized
    np.testing.assert_array_equal(found["input/range"], model.tensors["input/range"])


def test_in_front_of_a_pool_the_range_has_the_least_error_behind_it(model: TrainedModel, x: Float32) -> None:
    widest = calibrate(model.graph, model.tensors, x)["head_relu/range"]
    chosen = calibrate(model.graph, model.tensors, x, "pools")["head_relu/range"]
    weights = {name: model.tensors[name] for name in model.graph.parameters}
    values = activations(model.graph, weights, x, ["head_relu"])["head_relu"]
    assert pooled_error(values, Range(*chosen.tolist())) <= pooled_error(values, Range(*widest.tolist()))
    assert chosen[1] < widest[1]


def test_clipped_weights_have_less_squared_error_once_rounded(model: TrainedModel) -> None:
    generator = np.random.default_rng(3)
    weights = generator.normal(0, 1, (6, 5, 5, 200)).astype(np.float32)
    weights[::2, 0, 0, 0] = 7.0
    clipped = clip_weights(weights)

    def error(chosen: Float32) -> np.ndarray:
        return np.asarray(((fake_quantize_weights(chosen) - weights) ** 2).reshape(6, -1).sum(axis=1))

    assert (error(clipped) <= error(weights) * 1.0001).all()
    assert error(clipped).sum() < error(weights).sum()


def test_equalisation_keeps_the_function_and_brings_channels_together(
    model: TrainedModel, x: Float32
) -> None:
    equal = equalise(model.graph, model.tensors, x)
    before = scores(model.graph, dict(model.tensors), x)
    np.testing.assert_allclose(scores(model.graph, equal, x), before, rtol=1e-4, atol=1e-5)

    def spread(tensors: dict[str, Float32]) -> float:
        held = {name: tensors[name] for name in model.graph.parameters}
        peaks = activations(model.graph, held, x, ["squeeze_relu"])["squeeze_relu"].max(axis=(0, 1, 2))
        return float(np.log(peaks[peaks > 0]).std())

    assert spread(equal) < spread(dict(model.tensors))


def test_equalisation_finds_readers_through_pools_and_concats_and_stops_at_the_output(
    model: TrainedModel,
) -> None:
    assert readers_of(model.graph, "conv1") == [("squeeze", 0)]
    assert readers_of(model.graph, "squeeze") == [("left", 0), ("right", 0)]
    assert readers_of(model.graph, "right") == [("head", 6)]
    assert readers_of(model.graph, "head") is None


def test_bias_correction_restores_the_means(model: TrainedModel, x: Float32) -> None:
    ranges = calibrate(model.graph, model.tensors, x, "percentile", 98.0)
    held = {**model.tensors, **ranges}
    corrected = correct_bias(model.graph, held, x)
    rounding = round_activations(model.graph, held)

    def means(tensors: dict[str, Float32], rounded: bool) -> np.ndarray:
        weights = {
            name: fake_quantize_weights(tensors[name])
            if rounded and name.endswith("/weight")
            else tensors[name]
            for name in model.graph.parameters
        }
        found = activations(model.graph, weights, x, ["head"], None, rounding if rounded else None)
        return np.asarray(found["head"].mean(axis=(0, 1, 2)))

    wanted = means(dict(model.tensors), False)
    np.testing.assert_allclose(means(corrected, True), wanted, atol=1e-4)
    assert np.abs(means(dict(model.tensors), True) - wanted).max() > 1e-2


def test_an_absorbed_mean_is_the_same_function_and_an_input_that_loses_nothing(model: TrainedModel) -> None:
    images = photos()
    absorbed = absorb_preprocessing(model)
    np.testing.assert_allclose(
        scores(absorbed.graph, dict(absorbed.tensors), absorbed.preprocessing.apply(images)),
        scores(model.graph, dict(model.tensors), model.preprocessing.apply(images)),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip
    params = QuantParams.from_range(*absorbed.tensors["input/range"].tolist())
    x = absorbed.preprocessing.apply(images)
    np.testing.assert_allclose(params.dequantize(params.quantize(x)), x, atol=1e-6)


def test_a_pool_spread_over_two_convolutions_is_the_same_mean(model: TrainedModel, x: Float32) -> None:
    graph, tensors = spread_pools(model.graph, model.tensors)
    np.testing.assert_allclose(
        scores(graph, tensors, x), scores(model.graph, dict(model.tensors), x), rtol=1e-5, atol=1e-6
    )
    assert graph.shapes["scores"] == model.graph.shapes["scores"]


def test_rounding_with_moments_has_less_error_in_what_the_layer_makes(
    model: TrainedModel, x: Float32
) -> None:
    moments = patch_moments(model.graph, model.tensors, x)
    rounded = round_weights(model.graph, model.tensors, moments)
    for name, moment in moments.items():
        weight = model.tensors[f"{name}/weight"]

        def error(chosen: Float32, weight: Float32 = weight, moment: np.ndarray = moment) -> float:
            off = (chosen - weight).reshape(len(weight), -1).astype(np.float64)
            return float(((off @ moment) * off).sum())

        assert error(rounded[f"{name}/weight"]) < error(fake_quantize_weights(weight))
        np.testing.assert_allclose(
            fake_quantize_weights(rounded[f"{name}/weight"]), rounded[f"{name}/weight"], rtol=1e-6
        )


def test_a_rate_makes_levels_cheaper(model: TrainedModel, x: Float32) -> None:
    moment = patch_moments(model.graph, model.tensors, x)["right"]
    weight = model.tensors["right/weight"]
    steps = np.full(len(weight), float(np.abs(weight).max()) / 20)
    order, upper = conditional_factors(moment)
    zeros = [
        np.count_nonzero(coarse_levels(weight, order, upper, steps, 31, rate * steps**2) == 0)
        for rate in (0.0, float(moment.trace()))
    ]
    assert zeros[0] < zeros[1]


def test_coarse_levels_lose_less_once_8_bits_have_rounded_them_again() -> None:
    generator = np.random.default_rng(2)
    patches = generator.normal(0, 1, (400, 40)) @ generator.normal(0, 1, (40, 40))
    moment = patches.T @ patches / len(patches)
    weight = generator.normal(0, 1, (64, 1, 1, 40)).astype(np.float32)
    steps = np.abs(weight).max(axis=(1, 2, 3)).astype(np.float64) / 100.4
    order, upper = conditional_factors(moment)

    def error(levels: np.ndarray) -> float:
        made = levels.astype(np.float32) * steps.astype(np.float32)[:, None, None, None]
        off = (fake_quantize_weights(made) - weight).reshape(64, -1).astype(np.float64)
        return float(((off @ moment) * off).sum())

    aware = coarse_levels(weight, order, upper, steps, 127, np.zeros(64))
    assert error(aware) < 0.8 * error(levels_of(weight, order, upper, steps, 127))
    assert (np.abs(aware).max(axis=(1, 2, 3)) == 100).all()
