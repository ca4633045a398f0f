from __future__ import annotations

import logging
import sys

import numpy as np
import pytest

from emberfleet.converters.tflite.float_writer import write_tflite_float
from emberfleet.converters.tflite.int8_writer import write_tflite_int8
from emberfleet.core.errors import DeviceError, FormatError, ShapeError
from emberfleet.core.lowering import quantize
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.runtime.litert import LiteRtPredictor, find_interpreter
from tests.runtime.stripes import stripes, trained

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")


def test_logits_are_within_one_step_of_the_reference() -> None:
    network = quantize(trained().graph, trained().tensors)
    x = trained().preprocessing.apply(stripes(70, 4).images)
    found = LiteRtPredictor(write_tflite_int8(network), batch=32).run(x)
    want = NumpyBackend().integer_predictor(network, 32).run(x)
    assert np.abs(found - want).max() <= network.output_tensor.params.scale * 1.001


def test_one_image_after_many_gives_the_same() -> None:
    predictor = LiteRtPredictor(write_tflite_int8(quantize(trained().graph, trained().tensors)))
    x = trained().preprocessing.apply(stripes(5, 4).images)
    np.testing.assert_array_equal(predictor.run(x)[3:4], predictor.run(x[3:4]))


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(FormatError, match="refuses"):
        LiteRtPredictor(b"TFL3" * 20)


def test_a_float_model_is_refused() -> None:
    with pytest.raises(FormatError, match="int8 in and out"):
        LiteRtPredictor(write_tflite_float(trained().graph, trained().tensors))


def test_images_of_another_size_are_refused() -> None:
    predictor = LiteRtPredictor(write_tflite_int8(quantize(trained().graph, trained().tensors)))
    with pytest.raises(ShapeError, match="expected int8"):
        predictor.run(np.zeros((1, 8, 8, 1), np.float32))


def test_a_model_that_xnnpack_refuses_runs_without_it(caplog: pytest.LogCaptureFixture) -> None:
    ranges = {"fire2/relu/range": np.array([0.0, 2e-6], np.float32)}
    network = quantize(trained().graph, {**trained().tensors, **ranges})
    x = trained().preprocessing.apply(stripes(3, 4).images)
    with caplog.at_level(logging.WARNING):
        found = LiteRtPredictor(write_tflite_int8(network)).run(x)
    assert "without XNNPACK" in caplog.text
    want = NumpyBackend().integer_predictor(network, 4).run(x)
    assert np.abs(found - want).max() <= network.output_tensor.params.scale * 1.001


def test_without_a_runtime_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "ai_edge_litert",
        "ai_edge_litert.interpreter",
        "tflite_runtime",
        "tflite_runtime.interpreter",
    ):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DeviceError, match="pip install"):
        find_interpreter()
