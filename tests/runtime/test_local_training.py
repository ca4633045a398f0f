from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emberfleet.converters.bundle import build_bundle
from emberfleet.core.bundle import Bundle
from emberfleet.core.errors import ConfigError, DeviceError
from emberfleet.core.signing import SigningKey
from emberfleet.core.updates import UpdatePlan, decode_update, encode_update
from emberfleet.engine.memory import TrainingMemory
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.engine.selection import choose_backend
from emberfleet.runtime.local_training import train_update
from emberfleet.runtime.retraining import MemoryBudget, RetrainPlan
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.plans import scope_named
from tests.runtime.stripes import stripes, trained

KEY = SigningKey(bytes(range(32)))
PLAN = RetrainPlan("full", epochs=2, rate=0.02)


def test_an_update_holds_the_scope_in_its_order() -> None:
    bundle = Bundle.open(build_bundle(trained(), 1, KEY), [KEY.verify_key])
    found = train_update(bundle, stripes(30, 3, 40), PLAN, 1, NumpyBackend())
    assert tuple(found.new) == tuple(found.old) == scope_named(trained().graph, "full").tensors
    assert found.sample_count == 30
    assert found.metrics["loss"] < found.metrics["first_loss"]


def test_the_seed_of_the_round_decides_the_order() -> None:
    samples = stripes(30, 3, 40)
    first, again, other = (
        train_update(trained(), samples, PLAN, seed, NumpyBackend()).new["conv1/weight"] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_was_learnt_survives_the_wire() -> None:
    found = train_update(trained(), stripes(30, 3, 40), PLAN, 1, NumpyBackend())
    plan = UpdatePlan.for_model(found.old, found.old)
    change = decode_update(encode_update(found.old, found.new, plan), plan)
    for tensor in plan.tensors:
        want = found.new[tensor.name] - found.old[tensor.name]
        np.testing.assert_allclose(change[tensor.name], want, atol=plan.step(tensor))


def test_other_classes_have_no_place_in_a_fleet() -> None:
    data = stripes(10)
    other = Dataset(data.images, data.labels, ("a", "b", "c", "d", "e"))
    with pytest.raises(ConfigError, match="expected those of the model"):
        train_update(trained(), other, PLAN, 1, NumpyBackend())


def test_a_device_with_little_memory_learns_the_same_bits() -> None:
    try:
        backend = choose_backend("opencl", threads=1)
    except DeviceError as error:
        pytest.skip(str(error))
    taken: list[TrainingMemory] = []
    samples = stripes(30, 3, 40)
    kept = train_update(trained(), samples, PLAN, 1, backend, MemoryBudget(report=taken.append))
    limit = taken[0].arena.size_bytes * 4 // 5
    twice = train_update(trained(), samples, PLAN, 1, backend, MemoryBudget(limit, taken.append))
    assert taken[1].arena.size_bytes <= limit
    assert taken[1].recomputed
    for name, value in kept.new.items():
        np.testing.assert_array_equal(twice.new[name], value)


@pytest.mark.parametrize("name", ["numpy", "opencl"])
def test_the_stronger_the_proximal_term_the_nearer_stays_the_device_to_the_model(name: str) -> None:
    try:
        backend = choose_backend(name, threads=1)
    except DeviceError as error:
        pytest.skip(str(error))
    distances = []
    for proximal in (0.0, 1.0, 10.0):
        plan = replace(PLAN, proximal=proximal)
        found = train_update(trained(), stripes(30, 3, 40), plan, 1, backend)
        learnt = [key for key in found.new if key.endswith(("/weight", "/bias", "/gamma", "/beta"))]
        squares = [float(((found.new[key] - found.old[key]) ** 2).sum()) for key in learnt]
        distances.append(sum(squares) ** 0.5)
    assert distances[0] > distances[1] > distances[2] > 0
    assert distances[2] < 0.8 * distances[0]


def test_the_round_says_how_strong_the_proximal_term_is() -> None:
    assert RetrainPlan.from_settings({"proximal": 1}).proximal == 1.0
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="proximal"):
            RetrainPlan.from_settings({"proximal": wrong})
