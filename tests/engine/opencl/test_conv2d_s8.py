from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from emberfleet.core.arrays import Int8
from emberfleet.core.integer import IntegerConv, IntegerNetwork
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from emberfleet.engine.opencl.backend import OpenCLBackend
from emberfleet.engine.opencl.conv2d import Walk
from emberfleet.engine.opencl.conv2d_s8 import Branch, IntegerTile, cut, pack_factors, pack_weights
from emberfleet.engine.opencl.dot import Dot, device_forms
from emberfleet.engine.opencl.integer import OpenCLIntegerPredictor
from emberfleet.engine.opencl.layout import Images, Place, View
from tests.engine.opencl.integer_networks import HALF, conv_network

SHAPES: Mapping[str, dict[str, Any]] = {
    "one value": {"size": (1, 1), "channels": (1, 1)},
    "prime sizes": {"size": (13, 7), "channels": (17, 19), "kernel": (3, 3), "pad": (1, 1, 1, 1)},
    "three channels, stride two": {
        "size": (11, 11), "channels": (3, 64), "kernel": (3, 3), "stride": (2, 2), "relu": True,
    },
    "stride three": {"size": (11, 8), "channels": (5, 33), "kernel": (2, 2), "stride": (3, 3)},
    "window larger than what is left": {
        "size": (3, 4), "channels": (6, 10), "kernel": (5, 4), "stride": (2, 2), "pad": (2, 1, 2, 1),
    },
    "lopsided": {
        "size": (6, 5), "channels": (20, 48), "kernel": (2, 3), "stride": (1, 2), "pad": (1, 0, 0, 2),
    },
    "a row of pixels": {"size": (9, 31), "channels": (16, 80)},
    "factors of one and more": {"size": (5, 5), "channels": (2, 40), "shifts": (-9, 3)},
    "factors of almost nothing": {"size": (5, 5), "channels": (40, 40), "shifts": (-31, -20)},
    "extreme zero points": {"size": (4, 4), "channels": (12, 40), "kernel": (3, 3), "points": (127, -128)},
    "ReLU at the lowest code": {"size": (4, 4), "channels": (12, 40), "points": (-128, -128), "relu": True},
    "ReLU at the highest code": {"size": (4, 4), "channels": (12, 40), "points": (127, 127), "relu": True},
}  # fmt: skip


def check(backend: OpenCLBackend, network: IntegerNetwork, q: Int8, batch: int, dot: Dot) -> Int8:
    """Every code must be that of the numpy reference."""
    if dot not in device_forms(backend.device):
        pytest.skip(f"this device has no {dot.name.lower()} dot product")
    found = OpenCLIntegerPredictor(backend.device, network, batch, dot).run_integer(q)
    np.testing.assert_array_equal(found, NumpyBackend().integer_predictor(network, len(q)).run_integer(q))
    return found


@pytest.mark.parametrize("dot", list(Dot), ids=lambda dot: dot.name.lower())
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_code_is_that_of_the_reference(backend: OpenCLBackend, shape: dict[str, Any], dot: Dot) -> None:
    network = conv_network(**shape)
    q = np.random.default_rng(1).integers(-128, 128, (3, *network.input_tensor.shape)).astype(np.int8)
    q[1], q[2] = 127, -128
    check(backend, network, q, 2, dot)


@pytest.mark.parametrize("dot", list(Dot), ids=lambda dot: dot.name.lower())
def test_the_largest_sums_do_not_saturate(backend: OpenCLBackend, dot: Dot) -> None:
    """5000 products of the largest size are far beyond 16 bits, and beyond what float32 holds."""
    network = conv_network((1, 1), (5000, 32), points=(0, 0), shifts=(-22, -18))
    (conv,) = [op for op in network.ops if isinstance(op, IntegerConv)]
    signs = np.where(np.arange(32) % 2, 127, -127).astype(np.int8)
    conv.weights[...] = signs.reshape(-1, 1, 1, 1)
    conv.bias[...] = 0
    q = np.empty((3, 1, 1, 5000), np.int8)
    q[0], q[1], q[2] = 127, -128, np.where(np.arange(5000) % 2, 127, -128)
    found = check(backend, network, q, 3, dot)
    assert len(np.unique(found)) > 20


def test_ties_round_away_from_zero_after_rounding_to_even_halves_up(backend: OpenCLBackend) -> None:
    """Every code times one half to the sixth: a tie for one code in 64, of both signs."""
    network = conv_network((1, 1), (1, 48), points=(0, 0), shifts=(-5, -5))
    (conv,) = [op for op in network.ops if isinstance(op, IntegerConv)]
    conv.multiplier[...] = HALF
    conv.bias[...] = np.arange(48) * 16 - 384
    conv.weights[...] = 1
    q = np.arange(-128, 128).astype(np.int8).reshape(256, 1, 1, 1)
    found = check(backend, network, q, 256, next(device_forms(backend.device)))
    sums = np.arange(-128, 128)[:, None] + conv.bias
    ties = sums % 64 == 32
    assert ties.sum() > 100
    np.testing.assert_array_equal(found[ties], (np.sign(sums) * ((np.abs(sums) + 32) // 64))[ties])


def branch(network: IntegerNetwork, limits: tuple[int, int, int]) -> Branch:
    (op,) = [op for op in network.ops if isinstance(op, IntegerConv)]
    images = Images("y", 0, height=1, width=1, channels=16)
    return Branch(op, View(images, 0, len(op.weights), 16), limits)


def test_factors_that_could_overflow_are_scaled_plainly() -> None:
    small = branch(conv_network((1, 1), (4, 4), shifts=(-9, -2)), (5, -128, 127))
    assert not pack_factors(small, 3, 1, 16)[1]
    half = branch(conv_network((1, 1), (4, 4), shifts=(0, 0)), (5, -128, 127))
    assert pack_factors(half, 3, 1, 16)[1]
    tiny = branch(conv_network((1, 1), (4, 4), shifts=(-31, -31)), (5, -128, 127))
    assert pack_factors(tiny, 3, 1, 16)[1]
    small.op.bias[0] = 1 << 30
    assert not pack_factors(small, 3, 1, 16)[1]
    small.op.bias[0] = (1 << 31) - 2000
    assert pack_factors(small, 3, 1, 16)[1]


def test_weights_of_a_panel_lie_in_the_order_in_which_they_are_read() -> None:
    (op,) = [op for op in conv_network((3, 3), (6, 20), (3, 2)).ops if isinstance(op, IntegerConv)]
    packed = pack_weights(op, Dot.VPDPBUSD, 2, 16)
    assert packed.shape == (2, 3, 2, 2, 16, 4)
    assert packed[1, 2, 1, 1, 3, 1] == op.weights[19, 2, 1, 5]
    assert not packed[:, :, :, 1, :, 2:].any()
    assert not packed[1, :, :, :, 4:].any()
    plain = pack_weights(op, Dot.FLOAT, 2, 16)
    assert plain.dtype == np.float32
    assert plain[0, 0, 1, 5, 7, 0] == op.weights[7, 0, 1, 5]


@pytest.mark.parametrize("groups", [1, 8, 32])
def test_parts_cover_the_image_and_are_about_as_many_as_wanted(groups: int) -> None:
    place = Place(Images("x", 0), 0, 0, 0, 0)
    tile = IntegerTile(7, 1, 2, 16, 1, 0, False, False)
    for walk in (Walk(1, 56, 56, place, place), Walk(1, 1, 3000, place, place)):
        rows, columns = cut(walk, tile, 2, groups)
        parts = -(-walk.rows // rows) * -(-walk.columns // columns)
        assert 0.8 * groups <= parts * 2 <= max(2, groups)
        assert columns % tile.mrx == 0 or columns == walk.columns


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_lanes_share_the_work_in_the_gpu_family(backend: OpenCLBackend, shape: dict[str, Any]) -> None:
    network = conv_network(**shape)
    q = np.random.default_rng(1).integers(-128, 128, (3, *network.input_tensor.shape)).astype(np.int8)
    device = backend.device.in_family("gpu")
    found = OpenCLIntegerPredictor(device, network, 2).run_integer(q)
    np.testing.assert_array_equal(found, NumpyBackend().integer_predictor(network, 3).run_integer(q))
