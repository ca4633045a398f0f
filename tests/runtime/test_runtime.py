from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from emberfleet.converters.bundle import build_bundle
from emberfleet.core.errors import ConfigError, DeviceError, ShapeError, SignatureError
from emberfleet.core.signing import SigningKey
from emberfleet.engine.selection import choose_backend
from emberfleet.runtime import RetrainPlan, Runtime
from emberfleet.train.data.dataset import Dataset
from tests.runtime.stripes import CLASSES, stripes, trained

KEY = SigningKey(bytes(range(32)))
CHOICES = [("numpy", "int8"), ("numpy", "float"), ("opencl", "int8"), ("opencl", "float"), ("litert", "int8")]
FAINT = 40
"""Contrast at which the first model still errs."""


@cache
def _bundle(positions: int = 1) -> bytes:
    return build_bundle(trained(positions), 1, KEY)


def _open(backend: str = "numpy", precision: str = "int8", positions: int = 1) -> Runtime:
    if backend == "litert":
        pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    if backend == "opencl":
        try:
            choose_backend("opencl")
        except DeviceError as error:
            pytest.skip(f"no OpenCL: {error}")
    return Runtime.open(_bundle(positions), [KEY.verify_key], backend, precision)


@pytest.mark.parametrize(("backend", "precision"), CHOICES)
def test_every_backend_gives_the_same_classes(backend: str, precision: str) -> None:
    data = stripes(100, 6)
    runtime = _open(backend, precision)
    assert runtime.backend == backend
    found = runtime.predict(data.images)
    agreement = (found.classes == _open().predict(data.images).classes).mean()
    assert agreement >= 0.98
    assert runtime.evaluate(data).accuracy > 0.9
    np.testing.assert_allclose(found.probabilities.sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize(("backend", "precision"), CHOICES)
def test_codes_of_several_positions_are_predicted(backend: str, precision: str) -> None:
    data = stripes(3, 6, positions=2)
    found = _open(backend, precision, positions=2).predict(data.images)
    assert found.probabilities.shape == (3, 2, 5)
    assert [len(labels) for labels in found.labels()] == [2, 2, 2]


@pytest.mark.parametrize("backend", ["numpy", "opencl", "litert"])
def test_what_was_retrained_runs_on_this_backend(backend: str) -> None:
    runtime = _open(backend)
    faint = stripes(120, 8, FAINT)
    test = stripes(100, 12, FAINT)
    before = runtime.evaluate(test)
    result = runtime.retrain(faint, RetrainPlan("full", epochs=10, rate=0.02))
    after = runtime.evaluate(test)
    assert result.accepted
    assert after.accuracy > before.accuracy + 0.1
    again = Runtime.open(build_bundle(runtime.model, 2, KEY), [KEY.verify_key], "numpy")
    assert (again.predict(test.images).classes == runtime.predict(test.images).classes).mean() >= 0.98


def test_a_retrained_model_that_is_worse_is_not_taken() -> None:
    runtime = _open()
    test = stripes(60, 8)
    misled = stripes(60, 3)
    misled = Dataset(misled.images, (misled.labels + 1) % 5, CLASSES)
    logits = runtime.logits(test.images)
    result = runtime.retrain(misled, RetrainPlan("full", epochs=4, rate=0.05), held_out=test)
    assert not result.accepted
    assert result.after.accuracy < result.before.accuracy
    assert "not taken" in result.reason
    np.testing.assert_array_equal(runtime.logits(test.images), logits)
    assert runtime.model.tensors.keys() == trained().tensors.keys()


def test_own_classes_take_the_place_of_the_old() -> None:
    data = stripes(120, 8)
    two = Dataset(data.images, (data.labels >= 2).astype(np.int64), ("upper", "lower"))
    runtime = _open()
    result = runtime.retrain(two, RetrainPlan(epochs=15, rate=0.05))
    assert result.accepted
    assert runtime.classes == ("upper", "lower")
    assert runtime.evaluate(two).accuracy > 0.9
    assert set(runtime.predict(two.images[:3]).names) == {"upper", "lower"}


def test_restoring_forgets_what_was_learnt() -> None:
    runtime = _open()
    images = stripes(20, 3).images
    logits = runtime.logits(images)
    result = runtime.retrain(stripes(60, 8, FAINT), RetrainPlan("full", epochs=5, rate=0.02))
    assert result.accepted
    assert not np.array_equal(runtime.logits(images), logits)
    runtime.restore()
    np.testing.assert_array_equal(runtime.logits(images), logits)


def test_samples_of_some_classes_leave_the_classes() -> None:
    data = stripes(120, 8, FAINT)
    chosen = data.subset(data.labels < 2)
    samples = Dataset(chosen.images, 1 - chosen.labels, ("second", "first"))
    runtime = _open()
    runtime.retrain(samples, RetrainPlan(epochs=1))
    assert runtime.classes == CLASSES


def test_one_image_gives_what_it_gives_among_many() -> None:
    images = stripes(70, 6).images
    runtime = _open()
    np.testing.assert_array_equal(runtime.logits(images)[66:67], runtime.logits(images[66:67]))


def test_a_stranger_s_bundle_is_not_opened() -> None:
    with pytest.raises(SignatureError):
        Runtime.open(_bundle(), [SigningKey.generate().verify_key])


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ShapeError, match="expected uint8"):
        _open().predict(np.zeros((1, 8, 8, 1), np.uint8))
    with pytest.raises(ShapeError, match="at least one"):
        _open().predict(np.zeros((0, 9, 9, 1), np.uint8))


@pytest.mark.parametrize(("backend", "precision"), [("cuda", "int8"), ("numpy", "int4"), ("litert", "float")])
def test_a_backend_or_precision_that_is_not_there_is_refused(backend: str, precision: str) -> None:
    with pytest.raises(ConfigError, match="numpy"):
        Runtime.open(_bundle(), [KEY.verify_key], backend, precision)


def test_importing_the_runtime_loads_nothing_it_may_not_need() -> None:
    heavy = ("PIL", "tflite", "flatbuffers", "pyopencl", "ai_edge_litert", "sqlalchemy", "starlette", "rich")
    layers = ("emberfleet.train", "emberfleet.engine", "emberfleet.converters", "emberfleet.server")
    root = Path(__file__).resolve().parents[2]
    paths = [str(root / part) for part in ("edge", "server", "converters")]
    code = (
        f"import sys; sys.path[:0] = {paths}; from emberfleet.runtime import Runtime; "
        f"print([m for m in sys.modules if m in {heavy} or m.startswith({layers})])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
