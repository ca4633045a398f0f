"""Photos are scaled and cut in C as `emberfleet run` does it."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from PIL import Image, ImageOps

from emberfleet.converters.android.sources import source_folder
from emberfleet.core.arrays import UInt8
from tests.converters.android.building import C_FLAGS, run, skip_unless

MODES = {1: "L", 3: "RGB"}


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """fit.c alone; what C does not define ends the process."""
    skip_unless("gcc")
    library = tmp_path_factory.mktemp("fit") / "fit.so"
    trap = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
    run("gcc", *C_FLAGS, *trap, source_folder() / "android" / "jni" / "fit.c", "-o", library)
    return ctypes.CDLL(str(library))


def _fitted(fit: ctypes.CDLL, rgba: UInt8, size: tuple[int, int], channels: int) -> UInt8:
    words = rgba.astype(np.uint32)
    argb = np.ascontiguousarray(
        words[..., 3] << 24 | words[..., 0] << 16 | words[..., 1] << 8 | words[..., 2]
    )
    out = np.zeros((*size, channels), np.uint8)
    height, width = argb.shape
    done = fit.fit_image(
        argb.ctypes.data_as(ctypes.c_void_p), width, height, size[1], size[0], channels,
        out.ctypes.data_as(ctypes.c_void_p),
    )  # fmt: skip
    assert done == 1
    return out


def _by_pillow(rgba: UInt8, size: tuple[int, int], channels: int) -> UInt8:
    image = Image.fromarray(rgba)
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert(MODES[channels])
    if image.size != size[::-1]:
        image = ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(*size, channels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", range(40))
def test_every_byte_is_pillows(fit: ctypes.CDLL, channels: int, seed: int) -> None:
    """Rows first or, as Pillow 13 does with some tall images, columns first: the same turned around."""
    generator = np.random.default_rng(seed)
    height, width, out_height, out_width = (int(n) for n in generator.integers(1, 200, 4))
    if seed % 8 == 0:
        out_height, out_width = height, width
    if seed % 8 == 1:
        height, width = 3 * out_height, 3 * out_width
    rgba = generator.integers(0, 256, (height, width, 4), dtype=np.uint8)
    if seed % 2:
        rgba[..., 3] = 255
    size = (out_height, out_width)
    expected = _by_pillow(rgba, size, channels)
    rows_first = _fitted(fit, rgba, size, channels)
    turned = np.ascontiguousarray(rgba.transpose(1, 0, 2))
    columns_first = _fitted(fit, turned, size[::-1], channels).transpose(1, 0, 2)
    assert np.array_equal(rows_first, expected) or np.array_equal(columns_first, expected)
    assert np.abs(rows_first.astype(int) - expected).max() <= 1


def test_a_wide_photo_is_cut_around_its_centre(fit: ctypes.CDLL) -> None:
    rgba = np.full((10, 90, 4), 255, np.uint8)
    rgba[:, 30:60, :3] = 0
    assert _fitted(fit, rgba, (10, 10), 1).max() == 0


def test_what_is_transparent_is_white(fit: ctypes.CDLL) -> None:
    assert _fitted(fit, np.zeros((7, 7, 4), np.uint8), (3, 3), 3).min() == 255
