from __future__ import annotations

from itertools import product

import pytest

from emberfleet.engine.opencl.tiles import (
    ForwardShape,
    ForwardTile,
    WeightShape,
    WeightTile,
    forward_candidates,
    forward_fits,
    weight_candidates,
    weight_fits,
)

FORWARD = [
    ForwardShape((3, 1), 48, 64, 2, 7, 7, 16),
    ForwardShape((1, 1), 8, 16, 1, 1, 40, 16),
    ForwardShape((3, 3), 5, 12, 1, 3, 2, 4),
]
WEIGHT = [WeightShape((3, 1), 48, 64, 32, 7, 16), WeightShape((5, 2), 3, 16, 9, 4, 8)]


@pytest.mark.parametrize("registers", [16, 32])
@pytest.mark.parametrize("shape", FORWARD)
def test_the_candidates_of_a_convolution_are_the_tiles_that_fit(shape: ForwardShape, registers: int) -> None:
    tiles = [
        ForwardTile(mrx, mry, nv, shape.vector) for mrx, mry, nv in product(range(30), range(6), range(6))
    ]
    found = forward_candidates(shape, registers)
    assert set(found) == {tile for tile in tiles if forward_fits(shape, tile, registers)}
    assert found


@pytest.mark.parametrize("registers", [16, 32])
@pytest.mark.parametrize("shape", WEIGHT)
def test_the_candidates_of_a_weight_gradient_are_the_tiles_that_fit(
    shape: WeightShape, registers: int
) -> None:
    tiles = [WeightTile(ky, kc, nv, shape.vector) for ky, kc, nv in product(range(6), range(20), range(6))]
    found = weight_candidates(shape, registers)
    assert set(found) == {tile for tile in tiles if weight_fits(shape, tile, registers)}
    assert found


@pytest.mark.parametrize(
    "tile",
    [
        ForwardTile(8, 1, 2, 16),
        ForwardTile(4, 2, 1, 16),
        ForwardTile(7, 8, 1, 16),
        ForwardTile(4, 1, 3, 16),
        ForwardTile(4, 1, 2, 8),
        ForwardTile(0, 1, 2, 16),
    ],
)
def test_a_tile_that_would_leave_the_image_or_the_channels_does_not_fit(tile: ForwardTile) -> None:
    assert not forward_fits(ForwardShape((3, 1), 48, 64, 2, 7, 7, 16), tile, 32)
