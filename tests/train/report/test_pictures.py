"""PNG files are read back, pixel for pixel, by Pillow."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest

from emberfleet.core.arrays import UInt8
from emberfleet.core.errors import ShapeError
from emberfleet.train.report.pictures import Picture, encode_png, picture_grid


@pytest.mark.parametrize("shape", [(5, 7), (1, 1, 1), (3, 2, 3), (28, 28, 1)])
def test_a_png_holds_the_pixels_it_was_given(shape: tuple[int, ...]) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    image: UInt8 = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    with image_module.open(io.BytesIO(encode_png(image))) as opened:
        assert np.array_equal(np.asarray(opened), image.reshape(shape if shape[-1] == 3 else shape[:2]))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((2, 2), np.float32),
        np.zeros((2, 2, 4), np.uint8),
        np.zeros((0, 2), np.uint8),
        np.zeros(4, np.uint8),
    ],
    ids=["float", "four channels", "empty", "flat"],
)
def test_what_is_no_picture_is_refused(image: UInt8) -> None:
    with pytest.raises(ShapeError):
        encode_png(image)


def test_a_grid_carries_its_pictures_and_escapes_their_captions() -> None:
    grid = picture_grid([Picture(np.zeros((4, 8), np.uint8), "<b>3 & 4</b>", "<i>", "bad")], side=64)
    assert "&lt;b&gt;3 &amp; 4&lt;/b&gt;" in grid
    assert "<i>" not in grid
    assert 'width="64" height="32"' in grid
    (data,) = re.findall(r"base64,([^\"]+)", grid)
    assert base64.b64decode(data).startswith(b"\x89PNG")
