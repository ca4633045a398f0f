from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from emberfleet.core.errors import ConfigError
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.runtime.retraining import (
    RetrainPlan,
    among_classes,
    is_worse,
    learn,
    measure_int8,
    split_samples,
    with_classes,
    with_tensors,
)
from emberfleet.train.calibration.model import calibrate_model
from emberfleet.train.calibration.pools import spread_pools_of
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.evaluation import Evaluation
from emberfleet.train.initialisation import initial_tensors
from emberfleet.train.models import mobilenet
from emberfleet.train.plans import scope_named
from emberfleet.train.trained import TrainedModel
from tests.runtime.stripes import CLASSES, stripes, trained, untrained


def _evaluation(accuracy: float, loss: float) -> Evaluation:
    return Evaluation(accuracy, accuracy, loss, np.zeros((2, 2), np.int64))


def test_retraining_learns_in_int8() -> None:
    test = stripes(200, 5)
    before = measure_int8(untrained(), test, NumpyBackend())
    after = measure_int8(trained(), test, NumpyBackend())
    assert before.accuracy < 0.5 < 0.9 < after.accuracy


@pytest.mark.parametrize("scope", ["head", "last-1-fires", "full"])
def test_only_the_tensors_of_the_scope_change(scope: str) -> None:
    model = trained()
    learnt = learn(model, stripes(40, 3, 40), RetrainPlan(scope, epochs=1, rate=0.05), NumpyBackend())
    changed = {n for n in model.tensors if not np.array_equal(model.tensors[n], learnt.tensors[n])}
    planned = scope_named(model.graph, scope)
    assert set(planned.parameters) <= changed <= set(planned.tensors)


def test_the_same_seed_gives_the_same_bits() -> None:
    plan = RetrainPlan("full", epochs=2, seed=7)
    first, again = (learn(trained(), stripes(40, 3), plan, NumpyBackend()).tensors for _ in range(2))
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, again[name])


def test_running_statistics_stay_in_a_partial_scope_and_move_in_the_full_one() -> None:
    model, samples = trained(), stripes(40, 3, 40)
    for scope, moves in (("last-1-fires", False), ("full", True)):
        found = learn(model, samples, RetrainPlan(scope, epochs=1), NumpyBackend()).tensors
        name = "fire2/norm/mean"
        assert np.array_equal(found[name], model.tensors[name]) is not moves


def test_weights_that_overflow_in_the_last_step_are_divergence_too() -> None:
    plan = RetrainPlan("full", epochs=1, batch=40, rate=1e308)
    with np.errstate(all="ignore"), pytest.raises(ConfigError, match=r"no longer finite.*lower rate"):
        learn(trained(), stripes(40, 3, 40), plan, NumpyBackend())


def test_divergence_says_to_choose_a_lower_rate() -> None:
    with np.errstate(all="ignore"), pytest.raises(ConfigError, match="lower rate"):
        learn(trained(), stripes(40), RetrainPlan("full", rate=1e30, fake_quantize=False), NumpyBackend())


def test_codes_of_several_positions_are_retrained_too() -> None:
    learnt = learn(trained(2), stripes(40, 3, positions=2), RetrainPlan(epochs=1), NumpyBackend())
    assert np.isfinite(learnt.last_loss)


def test_worse_is_fewer_right_or_a_higher_loss() -> None:
    assert is_worse(_evaluation(0.8, 0.1), _evaluation(0.9, 0.5))
    assert is_worse(_evaluation(0.9, 0.6), _evaluation(0.9, 0.5))
    assert not is_worse(_evaluation(0.9, 0.5), _evaluation(0.9, 0.5))
    assert not is_worse(_evaluation(0.95, 0.9), _evaluation(0.9, 0.5))


def test_new_classes_keep_what_the_model_knows_of_the_old() -> None:
    model = trained()
    swapped = with_classes(model, ("fifth", "something new", "first"), seed=0)
    assert swapped.graph.classes == 3
    for part in ("weight", "bias"):
        new, old = swapped.tensors[f"classifier/{part}"], model.tensors[f"classifier/{part}"]
        np.testing.assert_array_equal(new[[0, 2]], old[[4, 0]])
    assert "conv1/weight" in swapped.tensors


def test_new_classes_at_several_positions_keep_each_position_apart() -> None:
    model = trained(2)
    swapped = with_classes(model, tuple(reversed(CLASSES)), seed=0)
    old = model.tensors["classifier/weight"].reshape(2, 5, -1)
    np.testing.assert_array_equal(swapped.tensors["classifier/weight"].reshape(2, 5, -1), old[:, ::-1])


def test_the_same_classes_leave_the_model_as_it_is() -> None:
    assert with_classes(trained(), CLASSES, 0) is trained()


def test_samples_of_some_classes_are_counted_among_the_models() -> None:
    images = np.zeros((3, 9, 9, 1), np.uint8)
    data = Dataset(images, np.array([0, 1, 1]), ("third", "first"))
    assert among_classes(data, CLASSES).labels.tolist() == [2, 0, 0]
    other = Dataset(images, np.array([0, 1, 1]), ("third", "new"))
    assert among_classes(other, CLASSES) is other


def test_too_few_samples_to_judge_are_refused() -> None:
    with pytest.raises(ConfigError, match="too few"):
        split_samples(stripes(1), RetrainPlan())


def test_samples_of_another_size_are_refused() -> None:
    wrong = Dataset(np.zeros((4, 8, 8, 1), np.uint8), np.zeros(4, np.int64), CLASSES)
    with pytest.raises(ConfigError, match="images of"):
        learn(trained(), wrong, RetrainPlan(), NumpyBackend())


def test_a_plan_comes_from_plain_settings() -> None:
    plan = RetrainPlan.from_settings({"scope": "full", "rate": 1, "batch_statistics": False, "epochs": 3})
    assert plan == RetrainPlan("full", epochs=3, rate=1.0, batch_statistics=False)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0}, {"epochs": True}, {"epochs": 2.5}, {"rate": float("nan")}, {"rate": "fast"},
        {"optimizer": "magic"}, {"schedule": "step"}, {"learning": 1}, {"batch_statistics": 1},
        {"flip": "yes"}, {"hold_out": 1.0}, {"seed": -1}, {"batch": 100_000},
    ],
)  # fmt: skip
def test_settings_that_make_no_plan_are_refused(settings: dict[str, str | int | float | bool]) -> None:
    with pytest.raises(ConfigError, match="retraining"):
        RetrainPlan.from_settings(settings)


def test_what_was_measured_of_old_weights_is_left_behind() -> None:
    assert with_tensors(trained(), trained().tensors).figures == {}


@cache
def trained_mobilenet() -> TrainedModel:
    """A narrow MobileNet that was trained in floating point, so that it needs calibration."""
    graph, preprocessing = mobilenet(9, 1, len(CLASSES), 0.125), Preprocessing(9, 9, 1, (0.2,), (0.2,))
    ranges = {"input/range": np.array(preprocessing.range, np.float32)}
    first = TrainedModel(
        graph, {**initial_tensors(graph, 0, preprocessing), **ranges}, preprocessing, CLASSES
    )
    plan = RetrainPlan("full", epochs=12, batch=32, rate=0.03, fake_quantize=False)
    return with_tensors(first, learn(first, stripes(256, 1), plan, NumpyBackend()).tensors)


@pytest.mark.parametrize("make", [trained, trained_mobilenet], ids=["small", "mobilenet"])
@pytest.mark.parametrize("scope", ["head", "full"])
def test_a_calibrated_model_retrains_and_its_pools_stay_pools(
    make: Callable[[], TrainedModel], scope: str
) -> None:
    ready = calibrate_model(make(), stripes(128, 9).images)
    faint, test = stripes(128, 3, 60), stripes(300, 5, 60)
    before = measure_int8(ready, test, NumpyBackend())
    plan = RetrainPlan(scope, epochs=3, rate=0.005)
    learnt = with_tensors(ready, learn(ready, faint, plan, NumpyBackend()).tensors)
    after = measure_int8(learnt, test, NumpyBackend())
    assert measure_int8(ready, stripes(300, 5), NumpyBackend()).accuracy > 0.9
    assert after.accuracy >= before.accuracy
    assert after.loss < before.loss
    pools = spread_pools_of(ready.graph)
    assert len(pools) == 2
    for name in (f"{pool}/{kind}" for pool in pools for kind in ("weight", "bias")):
        np.testing.assert_array_equal(learnt.tensors[name], ready.tensors[name])


@pytest.mark.parametrize("positions", [1, 2])
def test_a_calibrated_model_takes_other_classes_and_keeps_those_it_knows(positions: int) -> None:
    images = stripes(128, 9, positions=positions).images
    ready = calibrate_model(trained(positions), images)
    classes = ("new", *reversed(CLASSES))
    other = with_classes(ready, classes, 0)
    places = [classes.index(name) for name in CLASSES]
    scores, found = (
        NumpyBackend().predictor(m.graph, m.tensors, 32).run(m.preprocessing.apply(images[:32]))
        for m in (ready, other)
    )
    np.testing.assert_allclose(found[..., places], scores, rtol=1e-4, atol=1e-4)
    learn(other, Dataset(images, np.zeros((128,) if positions == 1 else (128, 2), np.int64), classes),
          RetrainPlan(epochs=1), NumpyBackend())  # fmt: skip
