from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emberfleet.core.errors import DeviceError
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.engine.opencl.device import CALLING_THREAD, SHORT_WORK, OpenCLDevice
from emberfleet.engine.opencl.dot import (
    Dot,
    choose_form,
    device_forms,
    exact_form,
)
from emberfleet.engine.opencl.integer import OpenCLIntegerPredictor
from emberfleet.engine.opencl.pocl_cpu import processor_flags
from tests.engine.opencl.integer_networks import conv_network

ANYWHERE = [Dot.FLOAT, Dot.PLAIN, Dot.PACKED]


@pytest.mark.parametrize(
    ("features", "vector", "cpu_name", "extra"),
    [
        ("avx512_vnni avx512vl", 16, None, [Dot.VPDPBUSD]),
        ("avx512_vnni avx512vl", 16, "cascadelake", [Dot.VPDPBUSD]),
        ("avx512_vnni avx512vl", 16, "skylake-avx512", []),
        ("avx512_vnni avx512vl", 8, None, [Dot.VPDPBUSD]),
        ("avx512_vnni", 8, None, []),
        ("avx_vnni", 8, None, [Dot.VPDPBUSD]),
        ("avx_vnni", 8, "haswell", []),
        ("avx_vnni", 16, None, []),
        ("avx2", 8, None, []),
        ("asimd asimddp", 4, None, [Dot.SDOT]),
        ("asimd", 4, None, []),
        ("cl_khr_fp16 cl_khr_integer_dot_product", 4, None, [Dot.KHR]),
    ],
)
def test_a_form_needs_its_instructions(
    device: OpenCLDevice, features: str, vector: int, cpu_name: str | None, extra: list[Dot]
) -> None:
    wanted = frozenset(features.split())
    other = replace(device, features=wanted, family="cpu", cpu_width=vector, cpu_name=cpu_name)
    assert list(device_forms(other)) == extra + ANYWHERE


def test_a_32_bit_process_does_not_use_the_64_bit_instruction(
    device: OpenCLDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "maxsize", (1 << 31) - 1)
    other = replace(device, features=frozenset({"asimddp"}), family="cpu", cpu_width=4)
    assert list(device_forms(other)) == ANYWHERE


def test_features_are_the_extensions_and_the_flags_of_the_processor(device: OpenCLDevice) -> None:
    (found,) = device.context.devices
    assert frozenset(str(found.extensions).split()) <= device.features
    if device.groups_are_threads:
        assert processor_flags(Path("/proc/cpuinfo").read_text(encoding="utf-8")) <= device.features


def test_a_form_that_the_device_lacks_is_refused(device: OpenCLDevice) -> None:
    bare = replace(device, features=frozenset())
    assert choose_form(bare, None) is Dot.FLOAT
    assert choose_form(bare, Dot.PACKED) is Dot.PACKED
    with pytest.raises(DeviceError, match="no sdot dot product"):
        choose_form(bare, Dot.SDOT)


def test_short_runs_stay_on_the_calling_thread(device: OpenCLDevice) -> None:
    alone = device.calling_thread()
    assert device.suited(SHORT_WORK - 1) is alone
    assert device.suited(SHORT_WORK) is device
    assert device.suited(SHORT_WORK // 2, SHORT_WORK // 4) is device
    if device.groups_are_threads:
        assert alone.limits == replace(device.limits, compute_units=1)
        assert alone.name.startswith(CALLING_THREAD)
        assert alone.calling_thread() is alone
        assert device.calling_thread() is alone


def test_float_sums_stay_integers_that_float32_holds() -> None:
    assert exact_form(Dot.FLOAT, 1032) is Dot.FLOAT
    assert exact_form(Dot.FLOAT, 1033) is Dot.PLAIN
    assert exact_form(Dot.VPDPBUSD, 100_000) is Dot.VPDPBUSD


@pytest.mark.parametrize("vector", [4, 8, 16])
@pytest.mark.parametrize("dot", list(Dot), ids=lambda dot: dot.name.lower())
def test_every_vector_width_gives_the_codes_of_the_reference(
    device: OpenCLDevice, vector: int, dot: Dot
) -> None:
    if vector > device.cpu_width:
        pytest.skip(f"this device has no vectors of {vector}")
    other = replace(device, family="cpu", cpu_width=vector)
    if dot not in device_forms(other):
        pytest.skip(f"this device has no {dot.name.lower()} dot product at that width")
    network = conv_network((9, 6), (11, 24), (3, 3), pad=(1, 1, 1, 1))
    q = np.random.default_rng(0).integers(-128, 128, (2, 9, 6, 11)).astype(np.int8)
    found = OpenCLIntegerPredictor(other, network, 2, dot).run_integer(q)
    np.testing.assert_array_equal(found, NumpyBackend().integer_predictor(network, 2).run_integer(q))


def test_the_khronos_form_says_what_the_extension_means(device: OpenCLDevice) -> None:
    """The extension's builtin is defined in plain C, for a driver that has none."""
    terms = "+".join(f"as_char4(a).s{i}*as_char4(b).s{i}" for i in range(4))
    flags = (*device.flags, f"-DKHR_DOT(a,b)=({terms})")
    other = replace(device, features=frozenset({"cl_khr_integer_dot_product"}), flags=flags)
    assert choose_form(other, None) is Dot.KHR
    network = conv_network((5, 6), (7, 20), (3, 3))
    q = np.random.default_rng(0).integers(-128, 128, (2, 5, 6, 7)).astype(np.int8)
    found = OpenCLIntegerPredictor(other, network, 2).run_integer(q)
    np.testing.assert_array_equal(found, NumpyBackend().integer_predictor(network, 2).run_integer(q))
