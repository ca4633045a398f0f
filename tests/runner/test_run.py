from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest

from emberfleet.converters.bundle import build_bundle
from emberfleet.core.arrays import Float32
from emberfleet.core.graph import Graph, without_softmax
from emberfleet.core.lowering import quantize
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.runtime.workloads import built_in_model, noise
from emberfleet.train.calibration import calibrate
from emberfleet.train.initialisation import initial_tensors
from emberfleet.train.trained import TrainedModel
from tests.core.networks import bypass_network
from tests.engine.networks import MOBILE_NETWORKS
from tests.runner.bundles import KEY, TRUSTED
from tests.runner.ember import Ember, EmberError, Input, Status
from tests.runtime.stripes import trained

LABELS = ("caf\u00e9", "\U0001f600", '"', "\\", "a b", "/", "\u4e2d")
PLANS = ("int8-cpu", "int8-gpu", "float32-cpu", "float32-gpu")
RUNS = (
    *(("stripes", plan) for plan in PLANS),
    ("two positions", "int8-gpu"),
    ("colours", "int8-cpu"),
    ("mobile", "int8-gpu"),
    ("mobile", "float32-cpu"),
    ("squeezenet", "int8-cpu"),
    ("squeezenet", "float32-gpu"),
)


def _untrained(graph: Graph, labels: tuple[str, ...]) -> TrainedModel:
    """First weights, on RGB pixels with a mean and a deviation for each channel."""
    height, width, _ = graph.input.shape
    preprocessing = Preprocessing(height, width, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    tensors = initial_tensors(graph, 0, preprocessing)
    ranges = calibrate(graph, tensors, preprocessing.apply(noise(16, preprocessing)))
    return TrainedModel(graph, {**tensors, **ranges}, preprocessing, labels)


@cache
def _model(case: str) -> TrainedModel:
    if case == "colours":
        return _untrained(bypass_network(classes=7, channels=3), LABELS)
    if case == "mobile":
        graph = MOBILE_NETWORKS["mobile"]
        return _untrained(graph, tuple(map(str, range(graph.classes))))
    return built_in_model("small") if case == "squeezenet" else trained(2 if case == "two positions" else 1)


@cache
def _bundle(case: str) -> bytes:
    return build_bundle(_model(case), 1, KEY, opencl_float=True)


@pytest.mark.parametrize(("case", "plan"), RUNS)
def test_answers_are_those_of_python(ember: Ember, opencl_library: str, case: str, plan: str) -> None:
    model = _model(case)
    pixels = noise(2, model.preprocessing)
    x = model.preprocessing.apply(pixels)
    backend, network = NumpyBackend(), quantize(model.graph, model.tensors)
    with ember.open(_bundle(case), TRUSTED, opencl_library=opencl_library, plan=plan) as opened:
        assert opened.info.plan.decode() == plan
        found = np.array([opened.run(Input.PIXELS, image) for image in pixels])
        np.testing.assert_array_equal([opened.run(Input.FLOATS, image) for image in x], found)
        codes = opened.codes
    if plan.startswith("int8"):
        expected = backend.integer_predictor(network, 2).run_integer(network.input_tensor.params.quantize(x))
        np.testing.assert_array_equal(codes, expected[-1].reshape(-1))
        expected_scores = network.output_tensor.params.dequantize(expected).reshape(2, -1)
        np.testing.assert_array_equal(found, expected_scores)
    else:
        assert codes is None
        scores = backend.predictor(without_softmax(model.graph), model.tensors, 2).run(x).reshape(2, -1)
        np.testing.assert_allclose(found, scores, rtol=1e-5, atol=1e-5 * np.abs(scores).max())


def test_a_fourth_byte_of_each_pixel_is_ignored(ember: Ember, opencl_library: str) -> None:
    pixels = noise(1, _model("colours").preprocessing)[0]
    with ember.open(_bundle("colours"), TRUSTED, opencl_library=opencl_library) as opened:
        expected = opened.run(Input.PIXELS, pixels)
        rgba = np.concatenate([pixels, np.full((9, 9, 1), 77, np.uint8)], axis=2)
        np.testing.assert_array_equal(opened.run(Input.RGBA, rgba), expected)


def test_a_grey_network_takes_no_colours(ember: Ember, opencl_library: str) -> None:
    with ember.open(_bundle("stripes"), TRUSTED, opencl_library=opencl_library) as opened:
        with pytest.raises(EmberError, match="expected 0") as caught:
            opened.run(Input.RGBA, np.zeros((9, 9, 4), np.uint8))
        assert caught.value.status == Status.BAD_ARGUMENT


def test_what_was_opened_is_described(ember: Ember, opencl_library: str) -> None:
    with ember.open(_bundle("colours"), TRUSTED, opencl_library=opencl_library) as opened:
        info = opened.info
        assert (info.model_name, info.model_version) == (b"model", 1)
        assert (info.height, info.width, info.channels) == (9, 9, 3)
        assert (info.positions, info.classes, info.score_count) == (1, 7, 7)
        assert (info.plan, info.precision) == (b"int8-cpu", b"int8")
        assert opened.labels == list(LABELS)
        assert info.device_bytes > 0


@pytest.mark.parametrize("size", [0, 80, 82, 4 * 81])
def test_an_image_of_another_size_is_refused(ember: Ember, opencl_library: str, size: int) -> None:
    with ember.open(_bundle("stripes"), TRUSTED, opencl_library=opencl_library) as opened:
        with pytest.raises(EmberError, match=f"{size} bytes of input, expected 81") as caught:
            opened.run(Input.PIXELS, np.zeros(size, np.uint8))
        assert caught.value.status == Status.BAD_ARGUMENT


def test_room_for_other_scores_is_refused(ember: Ember, opencl_library: str) -> None:
    with (
        ember.open(_bundle("stripes"), TRUSTED, opencl_library=opencl_library) as opened,
        pytest.raises(EmberError, match="room for 4 scores, expected 5"),
    ):
        opened.run(Input.PIXELS, np.zeros((9, 9, 1), np.uint8), room=4)


def test_two_models_run_side_by_side(ember: Ember, opencl_library: str) -> None:
    def answers(case: str) -> Float32:
        pixels = noise(8, _model(case).preprocessing)
        with ember.open(_bundle(case), TRUSTED, opencl_library=opencl_library) as opened:
            return np.array([opened.run(Input.PIXELS, image) for image in pixels])

    cases = ("stripes", "colours", "stripes", "colours")
    for case in cases[:2]:
        _bundle(case)
    with ThreadPoolExecutor(len(cases)) as pool:
        together = list(pool.map(answers, cases))
    for case, found in zip(cases, together, strict=True):
        np.testing.assert_array_equal(found, answers(case))


def test_there_are_no_codes_before_the_first_run(ember: Ember, opencl_library: str) -> None:
    with ember.open(_bundle("stripes"), TRUSTED, opencl_library=opencl_library) as opened:
        assert opened.codes is None


def test_a_family_is_enough_to_ask_for_a_plan(ember: Ember, opencl_library: str) -> None:
    data = _bundle("stripes")
    with ember.open(data, TRUSTED, opencl_library=opencl_library, plan="gpu", precision="float32") as opened:
        assert opened.info.plan == b"float32-gpu"


@pytest.mark.parametrize(
    ("plan", "precision", "text"),
    [("int8-tpu", None, "no launch plan"), (None, "int4", "expected int8 or float32")],
)
def test_a_plan_that_is_not_there_is_refused(
    ember: Ember, opencl_library: str, plan: str | None, precision: str | None, text: str
) -> None:
    data = _bundle("stripes")
    with pytest.raises(EmberError, match=text) as caught:
        ember.open(data, TRUSTED, opencl_library=opencl_library, plan=plan, precision=precision)
    assert caught.value.status == Status.BAD_ARGUMENT


def test_a_bundle_without_float_plans_says_so(ember: Ember, opencl_library: str) -> None:
    data = build_bundle(trained(), 1, KEY)
    with pytest.raises(EmberError, match="no launch plan of precision float32"):
        ember.open(data, TRUSTED, opencl_library=opencl_library, precision="float32")
