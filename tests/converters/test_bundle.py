from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from emberfleet.converters.bundle import FLOAT_TFLITE_PART, build_bundle, model_of, network_of
from emberfleet.converters.tflite.reader import summarize_tflite
from emberfleet.core.bundle import TFLITE_PART, WEIGHTS_PART, Bundle, encode_bundle
from emberfleet.core.errors import FormatError, QuantError
from emberfleet.core.lowering import quantize
from emberfleet.core.manifest import Manifest
from emberfleet.core.signing import SigningKey
from emberfleet.core.tensors import encode_tensors
from emberfleet.train.trained import TrainedModel
from tests.converters.plain_int8 import run_plain
from tests.converters.tflite.interpreter import run_tflite
from tests.runtime.stripes import CLASSES, trained

KEY = SigningKey(bytes(range(32)))
CREATED = datetime(2026, 1, 31, 12, tzinfo=UTC)


def _open(data: bytes) -> Bundle:
    return Bundle.open(data, [KEY.verify_key])


def _with_parts(changed: dict[str, bytes]) -> Bundle:
    """The bundle with other parts, signed."""
    bundle = _open(build_bundle(trained(), 1, KEY, created=CREATED))
    parts = {part: bundle.part(part) for part in bundle.parts} | changed
    document = {**bundle.manifest.to_json(), "parts": {}}
    return _open(encode_bundle(Manifest.from_json(document), parts, KEY))


def test_the_model_comes_back_with_every_bit() -> None:
    found = model_of(_open(build_bundle(trained(), 3, KEY)))
    assert found.graph == trained().graph
    assert found.classes == CLASSES
    assert found.preprocessing == trained().preprocessing
    for name, tensor in trained().tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)


def test_the_manifest_says_what_goes_in_and_out() -> None:
    manifest = _open(build_bundle(trained(2), 3, KEY, name="cap-reader", created=CREATED)).manifest
    assert (manifest.model_name, manifest.model_version) == ("cap-reader", 3)
    assert manifest.created == "2026-01-31T12:00:00+00:00"
    assert manifest.input.shape == (9, 9, 1)
    assert manifest.output.shape == (2, 5)
    assert manifest.positions == 2
    assert manifest.plans["head"] == ("classifier/weight", "classifier/bias", "classifier/range")
    assert set(manifest.plans) == {"head", "last-1-fires", "full"}


def test_tflite_and_opencl_part_carry_one_network() -> None:
    bundle = _open(build_bundle(trained(), 1, KEY))
    network = network_of(bundle)
    q = np.random.default_rng(0).integers(-128, 128, (4, 9, 9, 1)).astype(np.int8)
    want = run_plain(quantize(trained().graph, trained().tensors), q)
    np.testing.assert_array_equal(run_plain(network, q), want)
    np.testing.assert_array_equal(run_tflite(bundle.part(TFLITE_PART), q, reference=True), want)


def test_the_same_model_key_and_time_give_the_same_bytes(tmp_path: Path) -> None:
    data = build_bundle(trained(), 1, KEY, tmp_path / "model.ember", created=CREATED)
    assert data == build_bundle(trained(), 1, KEY, created=CREATED)
    assert (tmp_path / "model.ember").read_bytes() == data


def test_the_float_tflite_is_there_when_asked_for() -> None:
    assert FLOAT_TFLITE_PART not in _open(build_bundle(trained(), 1, KEY)).parts
    bundle = _open(build_bundle(trained(), 1, KEY, float_tflite=True))
    assert summarize_tflite(bundle.part(FLOAT_TFLITE_PART)).inputs[0].type == "float32"


def test_a_model_that_was_never_quantized_is_refused() -> None:
    tensors = {name: t for name, t in trained().tensors.items() if not name.endswith("/range")}
    model = TrainedModel(trained().graph, tensors, trained().preprocessing, CLASSES)
    with pytest.raises(QuantError, match="calibrate"):
        build_bundle(model, 1, KEY)


def test_signed_weights_of_another_network_are_refused() -> None:
    tensors = {**trained().tensors, "conv1/weight": np.zeros((1, 3, 3, 1), np.float32)}
    with pytest.raises(FormatError, match="conv1/weight"):
        model_of(_with_parts({WEIGHTS_PART: encode_tensors(tensors)}))


def test_signed_weights_that_are_not_finite_are_refused() -> None:
    tensors = {**trained().tensors, "classifier/bias": np.full(5, np.nan, np.float32)}
    with pytest.raises(FormatError, match="finite"):
        model_of(_with_parts({WEIGHTS_PART: encode_tensors(tensors)}))


def test_an_int8_network_with_other_ends_is_refused() -> None:
    other = _open(build_bundle(trained(2), 1, KEY))
    parts = {name: other.part(name) for name in other.parts if name.startswith("opencl/")}
    with pytest.raises(FormatError, match="goes from"):
        network_of(_with_parts(parts))
