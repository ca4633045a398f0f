from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from emberfleet.converters.opencl.part import CONSTANTS_FILE, PLAN_FILE, write_opencl_part
from emberfleet.core.errors import DeviceError
from emberfleet.core.integer import IntegerNetwork
from emberfleet.core.lowering import quantize
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.engine.opencl.device import OpenCLDevice, open_device
from emberfleet.engine.opencl.limits import FAMILIES
from emberfleet.engine.opencl.predictor import OpenCLPredictor
from tests.converters.plain_int8 import run_plain
from tests.core.networks import bypass_network, random_tensors
from tests.engine.opencl.integer_networks import average_pool_network, conv_network, max_pool_network
from tests.engine.opencl.networks import GRAPHS

PADDED = (1, 2, 1, 0)

NETWORKS: Mapping[str, IntegerNetwork] = {
    "conv": conv_network((7, 9), (5, 11), (3, 3), (2, 1), PADDED),
    "large factors": conv_network((4, 4), (8, 8), shifts=(-3, 2)),
    "max pool": max_pool_network((9, 7), 6, (3, 3), (2, 2), PADDED),
    "average pool": average_pool_network((5, 6), 12),
    **{
        name: quantize(GRAPHS[name], random_tensors(GRAPHS[name]))
        for name in ("no batch norm", "shared depthwise")
    },
}
FLOAT_GRAPHS = ("wide fires", "shared depthwise")


@pytest.fixture(scope="module")
def device() -> Iterator[OpenCLDevice]:
    try:
        yield open_device()
    except DeviceError as error:
        pytest.skip(str(error))


def _host(device: OpenCLDevice, parts: dict[str, bytes], name: str) -> Any:
    from tests.converters.opencl.other_host import OtherHost

    return OtherHost(device.context, parts, name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", NETWORKS)
def test_another_host_gets_every_bit_of_int8(device: OpenCLDevice, case: str, family: str) -> None:
    network = NETWORKS[case]
    host = _host(device, write_opencl_part(network), f"int8-{family}")
    params = network.input_tensor.params
    codes = np.random.default_rng(5).integers(-128, 128, (2, *network.input_tensor.shape)).astype(np.int8)
    expected = run_plain(network, codes).reshape(2, -1)
    np.testing.assert_array_equal([host.run(params.dequantize(image)) for image in codes], expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", FLOAT_GRAPHS)
def test_another_host_gets_the_float_answers(device: OpenCLDevice, case: str, family: str) -> None:
    graph = GRAPHS[case]
    tensors = random_tensors(graph)
    parts = write_opencl_part(quantize(graph, tensors), floating=(graph, tensors))
    host = _host(device, parts, f"float32-{family}")
    images = np.random.default_rng(6).standard_normal((2, *graph.input.shape)).astype(np.float32)
    found = np.array([host.run(image) for image in images])
    expected = OpenCLPredictor(device, graph, tensors, 1).run(images).reshape(2, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_another_host_reads_pixels_as_we_do(device: OpenCLDevice) -> None:
    graph = bypass_network(channels=3)
    network = quantize(graph, random_tensors(graph))
    preprocessing = Preprocessing(9, 9, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    host = _host(device, write_opencl_part(network, preprocessing), "int8-cpu")
    pixels = np.random.default_rng(7).integers(0, 256, (1, 9, 9, 3)).astype(np.uint8)
    codes = network.input_tensor.params.quantize(preprocessing.apply(pixels))
    np.testing.assert_array_equal(host.run_pixels(pixels[0]), run_plain(network, codes).reshape(-1))


def _plan(floating: bool = False) -> tuple[dict[str, Any], dict[str, bytes]]:
    graph = bypass_network()
    tensors = random_tensors(graph)
    parts = write_opencl_part(quantize(graph, tensors), floating=(graph, tensors) if floating else None)
    return json.loads(parts[PLAN_FILE]), parts


def test_both_families_read_the_same_constants() -> None:
    cpu, gpu = _plan()[0]["plans"]
    assert (cpu["family"], gpu["family"]) == FAMILIES
    places = [[buffer["contents"] for buffer in plan["buffers"]] for plan in (cpu, gpu)]
    assert places[0] == places[1]


def test_float_plans_are_there_where_asked_for() -> None:
    assert [plan["name"] for plan in _plan()[0]["plans"]] == ["int8-cpu", "int8-gpu"]
    names = [plan["name"] for plan in _plan(floating=True)[0]["plans"]]
    assert names == ["int8-cpu", "int8-gpu", "float32-cpu", "float32-gpu"]


def test_only_int8_needs_64_bit_integers() -> None:
    for plan in _plan(floating=True)[0]["plans"]:
        options = {option for program in plan["programs"] for option in program["options"]}
        assert plan["int64"] == (plan["precision"] == "int8")
        assert ("-DNO_INT64" in options) == (plan["precision"] == "float32")


def test_a_plan_is_plain_for_a_small_parser() -> None:
    document, parts = _plan(floating=True)
    text = parts[PLAN_FILE].decode("ascii")
    assert "\\" not in text
    assert all(type(number) is int for number in _leaves(document) if not isinstance(number, str))


def test_everything_in_a_plan_lies_within_its_buffers() -> None:
    document, parts = _plan(floating=True)
    for plan in document["plans"]:
        sizes = [buffer["bytes"] for buffer in plan["buffers"]]
        for buffer in plan["buffers"]:
            start, size = buffer["contents"] or (0, 0)
            assert start % 64 == 0
            assert start + size <= len(parts[CONSTANTS_FILE])
            assert size <= buffer["bytes"]
        begin, length = plan["input"]["stretch"]
        assert begin + length <= sizes[plan["input"]["buffer"]]
        item = 1 if plan["output"]["type"] == "s8" else 4
        assert plan["output"]["at"] + item * plan["output"]["count"] <= sizes[plan["output"]["buffer"]]
        for launch in plan["launches"]:
            assert launch["local"] == [plan["lanes"], 1, 1]
            assert launch["global"][0] % plan["lanes"] == 0


def test_one_network_gives_one_sequence_of_bytes() -> None:
    assert _plan(floating=True)[1] == _plan(floating=True)[1]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        yield value
        return
    for item in value:
        yield from _leaves(item)
