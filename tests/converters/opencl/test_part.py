from __future__ import annotations

import json

import numpy as np
import pytest

from emberfleet.converters.opencl.part import (
    NETWORK_FILE,
    PLAN_FILE,
    WEIGHTS_FILE,
    read_opencl_part,
    write_opencl_part,
)
from emberfleet.core.errors import FormatError
from emberfleet.core.lowering import quantize
from tests.converters.plain_int8 import run_plain
from tests.core.networks import bypass_network, random_tensors


def _parts() -> dict[str, bytes]:
    graph = bypass_network()
    return write_opencl_part(quantize(graph, random_tensors(graph)))


def test_the_network_comes_back_with_the_same_bits() -> None:
    graph = bypass_network(positions=2)
    network = quantize(graph, random_tensors(graph))
    found = read_opencl_part(write_opencl_part(network))
    q = np.random.default_rng(0).integers(-128, 128, (2, *graph.input.shape)).astype(np.int8)
    np.testing.assert_array_equal(run_plain(found, q), run_plain(network, q))


def test_the_plan_names_every_kernel_in_the_part() -> None:
    parts = _parts()
    named = {f"opencl/kernels/{name}" for name in json.loads(parts[PLAN_FILE])["kernels"]}
    assert named == {name for name in parts if name.endswith(".cl")}
    assert "opencl/kernels/prelude.cl" in named
    assert any(b"__kernel" in parts[name] for name in named)


def test_no_kernel_that_no_plan_launches_travels_along() -> None:
    found = {name for name in _parts() if name.endswith(".cl")}
    assert found == {f"opencl/kernels/{name}.cl" for name in ("prelude", "conv2d_s8", "integer")}


def test_a_part_without_launch_plans_is_read() -> None:
    parts = _parts()
    plan = json.loads(parts[PLAN_FILE])
    old = {"format": 1, "network": plan["network"], "weights": plan["weights"], "kernels": plan["kernels"]}
    network = read_opencl_part({**parts, PLAN_FILE: json.dumps(old).encode()})
    assert network.output_tensor.shape == (5,)


@pytest.mark.parametrize("name", [PLAN_FILE, NETWORK_FILE, WEIGHTS_FILE, "opencl/kernels/prelude.cl"])
def test_a_missing_file_is_named(name: str) -> None:
    parts = _parts()
    del parts[name]
    with pytest.raises(FormatError, match=name):
        read_opencl_part(parts)


def test_a_changed_kernel_is_refused() -> None:
    parts = _parts()
    parts["opencl/kernels/prelude.cl"] += b" "
    with pytest.raises(FormatError, match="not the one"):
        read_opencl_part(parts)


@pytest.mark.parametrize(
    "plan",
    [b"", b"[]", b'{"format": 3}', b'{"format": 2, "kernels": {"a.cl": 1}, "network": "", "weights": ""}'],
)
def test_a_plan_of_another_form_is_refused(plan: bytes) -> None:
    with pytest.raises(FormatError, match="opencl part"):
        read_opencl_part({**_parts(), PLAN_FILE: plan})
