"""Devices smaller than this one, drivers that refuse: what is done then, and that it is said once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import emberfleet.engine.opencl.device as device_module
from emberfleet.core.errors import BuildError, ConfigError, DeviceError
from emberfleet.core.graph import Graph
from emberfleet.engine.backend import Backend, TrainingSpec
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.engine.opencl import launches
from emberfleet.engine.opencl.backend import OpenCLBackend
from emberfleet.engine.opencl.device import OpenCLDevice, open_device
from emberfleet.engine.opencl.limits import Family, family_and_lanes
from emberfleet.engine.optimizers import Adam
from emberfleet.engine.selection import BackendWithFallback
from tests.core.networks import bypass_network
from tests.engine.networks import MOBILE_NETWORKS, linear_network, random_batch, single_tensors
from tests.engine.opencl.integer_networks import average_pool_network
from tests.engine.tolerance import tolerance

BATCH = 3
SUMS = 4000
"""Lengths of all sums on the longest way through one of the test networks, added up."""


def masked(device: OpenCLDevice, family: Family = "gpu", **limits: Any) -> OpenCLDevice:
    """The device as if its limits were lower."""
    found = device.in_family(family)
    return replace(found, limits=replace(found.limits, **limits))


def assert_learns_like_the_reference(backend: Backend, graph: Graph) -> None:
    """One step, then the same loss, parameters and predictions."""
    tensors = single_tensors(graph)
    images, labels = random_batch(graph, BATCH)
    x = images.astype(np.float32)
    ours, theirs = (
        one.trainer(graph, TrainingSpec(BATCH, Adam(), seed=5)) for one in (backend, NumpyBackend())
    )
    ours.load(tensors)
    theirs.load(tensors)
    allowed = tolerance(SUMS, np.float32)
    assert ours.step(x, labels, 1e-3) == pytest.approx(theirs.step(x, labels, 1e-3), rel=1e-4)
    found, expected = ours.tensors(), theirs.tensors()
    scale = max(float(np.abs(value).max()) for value in expected.values())
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=allowed * scale)
    one, other = (place.predictor(graph, tensors, 2).run(x) for place in (backend, NumpyBackend()))
    np.testing.assert_allclose(one, other, rtol=0, atol=allowed * float(np.abs(other).max()))


@pytest.mark.parametrize(
    ("limits", "lanes"),
    [
        ({}, 64),
        ({"max_work_group": 256, "local_bytes": 1 << 14}, 64),
        ({"max_work_group": 12}, 8),
        ({"local_bytes": 100}, 4),
        ({"max_work_group": 1}, 1),
    ],
)
def test_lanes_are_what_the_device_allows(device: OpenCLDevice, limits: dict[str, Any], lanes: int) -> None:
    assert masked(device, **limits).lanes == lanes


@pytest.mark.parametrize("items", [256, 12, 1])
def test_groups_of_any_size_learn_like_the_reference(device: OpenCLDevice, items: int) -> None:
    small = masked(device, max_work_group=items, local_bytes=1 << 14)
    assert_learns_like_the_reference(OpenCLBackend(device=small), bypass_network(side=7))
    assert_learns_like_the_reference(OpenCLBackend(device=small), MOBILE_NETWORKS["shared depthwise"])


def test_a_processor_has_one_lane_and_wide_vectors(device: OpenCLDevice) -> None:
    gpu = device.in_family("gpu")
    assert (gpu.lanes, gpu.limits.vector_width, gpu.fuses) == (64, 4, False)
    back = gpu.in_family("cpu")
    assert (back.lanes, back.limits, back.fuses) == (1, device.in_family("cpu").limits, device.fuses)


def test_the_environment_chooses_the_family(device: OpenCLDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBERFLEET_OPENCL_FAMILY", "gpu")
    (found,) = device.context.devices
    assert open_device().family == "gpu"
    assert family_and_lanes(found) == ("gpu", 64)
    monkeypatch.setenv("EMBERFLEET_OPENCL_FAMILY", "cpu")
    assert open_device().family == "cpu"
    assert family_and_lanes(found) == ("cpu", 1)


def test_an_unknown_family_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBERFLEET_OPENCL_FAMILY", "tpu")
    with pytest.raises(ConfigError, match="EMBERFLEET_OPENCL_FAMILY is 'tpu', expected one of cpu, gpu"):
        open_device()


def test_a_device_without_64_bit_integers_predicts_in_float_only(device: OpenCLDevice) -> None:
    backend = OpenCLBackend(device=masked(device, int64=False))
    assert_learns_like_the_reference(backend, linear_network())
    network = average_pool_network((3, 5), 4)
    with pytest.raises(DeviceError, match="no 64-bit integers"):
        backend.integer_predictor(network, 2)
    x = np.zeros((1, *network.input_tensor.shape), np.float32)
    fallback = BackendWithFallback(backend, NumpyBackend)
    np.testing.assert_array_equal(
        fallback.integer_predictor(network, 2).run(x), NumpyBackend().integer_predictor(network, 2).run(x)
    )


def test_what_does_not_fit_the_device_is_computed_by_numpy_and_said_once(
    device: OpenCLDevice, caplog: pytest.LogCaptureFixture
) -> None:
    backend = OpenCLBackend(device=masked(device, max_allocation_bytes=4096))
    with pytest.raises(DeviceError, match=r"bytes are needed.*allows 4096.*smaller batch"):
        backend.trainer(bypass_network(side=7), TrainingSpec(BATCH, Adam()))
    fallback = BackendWithFallback(backend, NumpyBackend)
    with caplog.at_level(logging.INFO):
        fallback.trainer(bypass_network(side=7), TrainingSpec(BATCH, Adam()))
    assert fallback.name == "numpy"
    (record,) = caplog.records
    assert "computing with numpy" in record.getMessage()
    assert "4096" in record.getMessage()


def refuse_text(monkeypatch: pytest.MonkeyPatch, *families: Family) -> None:
    """Make every kernel file one that does not compile, as these families read it."""
    places = {"gpu": device_module, "cpu": launches}
    for family in families:
        monkeypatch.setattr(places[family], "read_source", lambda name: "KERNEL nonsense(\n")


def run_out_of_memory(monkeypatch: pytest.MonkeyPatch, *families: Family) -> None:
    """Make the driver run out of memory while it builds for these families."""
    import pyopencl as cl

    real = OpenCLDevice._compile

    class Exhausted:
        def __init__(self, *_: object) -> None: ...

        def build(self, **_: object) -> None:
            raise cl.MemoryError("clBuildProgram failed: OUT_OF_HOST_MEMORY")

    def compile_(device: OpenCLDevice, *arguments: object) -> object:
        with monkeypatch.context() as patched:
            if device.family in families:
                patched.setattr(cl, "Program", Exhausted)
            return real(device, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(OpenCLDevice, "_compile", compile_)


Fault = Callable[..., None]


@pytest.mark.parametrize("fault", [refuse_text, run_out_of_memory])
def test_a_family_that_does_not_build_gives_way_to_the_other_with_one_line(
    device: OpenCLDevice, fault: Fault, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backend = OpenCLBackend(device=masked(device))
    with monkeypatch.context() as patched, caplog.at_level(logging.INFO):
        fault(patched, "gpu")
        assert_learns_like_the_reference(backend, linear_network())
    assert backend.device.family == "cpu"
    (record,) = caplog.records
    text = record.getMessage()
    assert "computes in family 'cpu', because in 'gpu' building" in text
    assert "\n" not in text


@pytest.mark.parametrize("fault", [refuse_text, run_out_of_memory])
def test_a_driver_that_builds_nothing_leaves_numpy_unless_opencl_was_asked_for(
    device: OpenCLDevice, fault: Fault, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("emberfleet.engine.opencl.binaries.load", lambda name: None)
    fault(monkeypatch, "cpu", "gpu")
    backend = OpenCLBackend(device=masked(device, "cpu"))
    with pytest.raises(BuildError, match=r"(?s)building .*in family 'gpu': building"):
        backend.trainer(linear_network(), TrainingSpec(BATCH, Adam()))
    fallback = BackendWithFallback(backend, NumpyBackend)
    with caplog.at_level(logging.INFO):
        assert_learns_like_the_reference(fallback, linear_network())
    assert fallback.name == "numpy"
    (record,) = caplog.records
    assert record.getMessage().startswith("computing with numpy, which is slower than OpenCL: building")
    assert "\n" not in record.getMessage()


def test_a_kernel_that_needs_smaller_groups_is_a_build_error(
    device: OpenCLDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyopencl as cl

    monkeypatch.setattr(cl.Kernel, "get_work_group_info", lambda *_: 32)
    with pytest.raises(BuildError, match="fill_zero_f32 in groups of at most 32, not 64"):
        masked(device).kernel("elementwise", "fill_zero_f32")
