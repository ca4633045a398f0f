"""Photographs from JPEG and PNG bytes, brought to one size.

Nothing is unpacked before its size is known to be sane, so an image that claims to be enormous (a
"decompression bomb") costs nothing. Needs Pillow: `pip install "emberfleet[train]"`.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from emberfleet.core.arrays import UInt8
from emberfleet.core.errors import DataError

FORMATS = ("JPEG", "PNG")
SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_FILE_BYTES = 64 << 20
MAX_PIXELS = 64_000_000
MAX_DATASET_BYTES = 4 << 30
MODES = {1: "L", 3: "RGB"}
DAMAGE = (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)
"""What Pillow raises on bytes that are no image, or a damaged one."""


def decode_image(data: bytes, source: str, size: tuple[int, int], channels: int) -> UInt8:
    """Turn the bytes of a JPEG or PNG file into ``(H, W, C)`` pixels.

    The camera's orientation (EXIF) is honoured; the image is scaled until it covers `size` and cut
    to it around its centre; what is transparent becomes white.

    Args:
        data: The file.
        source: Its name, for errors.
        size: Height and width of the result, in pixels.
        channels: 1 for grey, 3 for colour.

    Raises:
        DataError: Another format, damaged, truncated, or over 64 million pixels.
    """
    if len(data) > MAX_FILE_BYTES:
        raise DataError(f"{source}: {len(data)} bytes, expected at most {MAX_FILE_BYTES}")
    height, width = size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning)
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
            if math.prod(image.size) > MAX_PIXELS:
                raise DataError(
                    f"{source}: {image.width} x {image.height} pixels, expected at most {MAX_PIXELS}; refused"
                )
            if image.mode.startswith("I"):
                raise DataError(f"{source}: 16 bits per pixel, expected 8; save the image with 8 bits")
            longest = max(height, width)
            image.draft(MODES[channels], (longest, longest))
            image.load()
            image = ImageOps.exif_transpose(image)
            if _has_transparency(image):
                paper = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(paper, image.convert("RGBA"))
            image = image.convert(MODES[channels])
            if image.size != (width, height):
                image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
            pixels: UInt8 = np.asarray(image).reshape(height, width, channels)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{source}: over {MAX_PIXELS} pixels, refused") from error
    except DAMAGE as error:
        raise DataError(f"{source}: no readable JPEG or PNG in its {len(data)} bytes: {error}") from error
    return pixels


def _has_transparency(image: Image.Image) -> bool:
    """What Pillow 10.1 calls `has_transparency_data`; Debian 12 has 9.4."""
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return True
    return image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")


def allocate_images(count: int, size: tuple[int, int], channels: int, source: str) -> UInt8:
    """Room for ``(count, H, W, C)`` pixels.

    Raises:
        DataError: The size makes no sense, or all images together pass 4 GiB.
    """
    shape = (count, *size, channels)
    if channels not in MODES or not all(1 <= side <= 4096 for side in size):
        raise DataError(
            f"images of {size[0]} x {size[1]} with {channels} channels: expected 1 to 4096 pixels and "
            "1 or 3 channels"
        )
    if math.prod(shape) > MAX_DATASET_BYTES:
        raise DataError(
            f"{source}: {count} images of {size[0]} x {size[1]} need {math.prod(shape)} bytes, expected at "
            f"most {MAX_DATASET_BYTES}; choose a smaller size"
        )
    return np.empty(shape, np.uint8)


def resize_images(images: UInt8, size: tuple[int, int]) -> UInt8:
    """Scale and centre-crop ``(N, H, W, C)`` images to another height and width."""
    if images.shape[1:3] == size:
        return images
    channels = images.shape[3]
    resized = allocate_images(len(images), size, channels, "resizing")
    for n, pixels in enumerate(images):
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        fitted = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BILINEAR)
        resized[n] = np.asarray(fitted).reshape(*size, channels)
    return resized
