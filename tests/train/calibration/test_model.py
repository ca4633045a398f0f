"""A calibrated model runs in int8 and answers as it did; a compact one takes the bytes it was given."""

from __future__ import annotations

import numpy as np
import pytest

from emberfleet.converters.wire.levels import exact_levels
from emberfleet.core.errors import ConfigError
from emberfleet.core.lowering import quantize
from emberfleet.engine.numpy_backend.activations import activations
from emberfleet.engine.selection import choose_backend
from emberfleet.train.calibration.compact import compact_model, entropy_bytes, short_floats, short_steps
from emberfleet.train.calibration.model import Calibration, calibrate_model
from emberfleet.train.trained import TrainedModel
from tests.train.calibration.networks import fire_model, photos


def signal_to_noise_db(model: TrainedModel, ready: TrainedModel) -> float:
    images = photos(32, seed=5)
    x = model.preprocessing.apply(images)
    held = {name: model.tensors[name] for name in model.graph.parameters}
    exact = activations(model.graph, held, x, [model.graph.output.name])[model.graph.output.name]
    predictor = choose_backend("numpy").integer_predictor(quantize(ready.graph, ready.tensors), 32)
    error = predictor.run(ready.preprocessing.apply(images)) - exact
    return float(10 * np.log10((exact**2).sum() / (error**2).sum()))


@pytest.mark.parametrize(
    "options",
    [
        Calibration(),
        Calibration("minmax", absorb=False, equalise=False, rounding=False, bias=False),
        Calibration("mse", clip=True, rounding=False, bias=True),
        Calibration("minmax", spread=True),
    ],
    ids=["default", "plain", "mse", "spread"],
)
def test_a_calibrated_model_answers_in_int8_as_it_did_in_float(options: Calibration) -> None:
    model = fire_model()
    ready = calibrate_model(model, photos(), options)
    assert ready.quantized
    assert signal_to_noise_db(model, ready) > 20


def test_a_pool_with_its_own_range_tells_more_scores_apart() -> None:
    model = fire_model()
    x = photos(64, seed=9)
    told = []
    for spread in (False, True):
        ready = calibrate_model(model, photos(), Calibration("minmax", spread=spread))
        predictor = choose_backend("numpy").integer_predictor(quantize(ready.graph, ready.tensors), 32)
        told.append(len(np.unique(predictor.run(ready.preprocessing.apply(x)))))
    assert told[1] > told[0]


def test_a_compact_model_takes_the_bytes_it_was_given_and_more_bytes_say_more() -> None:
    model = fire_model()
    noise = []
    for target in (120, 290):
        small = compact_model(model, photos(), target)
        taken = 0.0
        for node in ("conv1", "squeeze", "left", "right", "head"):
            weight = small.tensors[f"{node}/weight"]
            found = exact_levels(weight)
            assert found is not None
            taken += entropy_bytes(found.levels)
        assert target * 0.6 < taken <= target * 1.02
        noise.append(signal_to_noise_db(model, small))
    assert noise[1] > noise[0]


def test_too_few_bytes_are_refused() -> None:
    with pytest.raises(ConfigError, match="too few"):
        compact_model(fire_model(), photos(), 2)


def test_short_floats_keep_their_first_bits() -> None:
    values = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    short = short_floats(values)
    np.testing.assert_allclose(short, values, rtol=2.0**-12)
    assert not (short.view(np.uint32) & 0x7FF).any()


def test_short_steps_are_no_smaller_and_at_most_a_sixteenth_larger() -> None:
    values = np.exp(np.random.default_rng(0).normal(0, 4, 100))
    short = short_steps(values)
    assert (short >= values.astype(np.float32)).all()
    assert (short <= values * 1.0626).all()
    assert not (short.view(np.uint32) & 0x7FFFF).any()
