"""Images inside a page: PNG bytes, data URIs and a grid with captions."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from emberfleet.core.arrays import UInt8
from emberfleet.core.errors import ShapeError
from emberfleet.train.report.html import Html, element, empty, text

Tone = Literal["plain", "good", "bad"]


@dataclass(frozen=True)
class Picture:
    """One image of a grid.

    Attributes:
        image: ``(H, W)``, ``(H, W, 1)`` or ``(H, W, 3)`` bytes.
        caption: One or two words below it.
        note: A second line, smaller.
        tone: Colour of the caption.
    """

    image: UInt8
    caption: str = ""
    note: str = ""
    tone: Tone = "plain"


def encode_png(image: UInt8) -> bytes:
    """Grey ``(H, W)`` or ``(H, W, 1)``, or colour ``(H, W, 3)`` bytes as a PNG file.

    Source: W3C PNG specification, sections 5 and 11; filter 0 on every row.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise ShapeError(
            f"image is {image.dtype} {image.shape}, expected uint8 (H, W), (H, W, 1) or (H, W, 3)"
        )
    pixels = image[..., None] if image.ndim == 2 else image
    height, width, channels = pixels.shape
    if channels not in (1, 3):
        raise ShapeError(f"image has {channels} channels, expected 1 or 3")
    rows = np.zeros((height, 1 + width * channels), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def data_uri(png: bytes) -> str:
    """PNG bytes as an address that needs no file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def picture_grid(pictures: Sequence[Picture], side: int = 72) -> Html:
    """Images in rows, as many in each as fit, enlarged without blur to `side` pixels."""
    return element("div", *(_figure(picture, side) for picture in pictures), class_="grid")


def _figure(picture: Picture, side: int) -> Html:
    height, width = picture.image.shape[:2]
    scale = side / max(height, width)
    image = empty(
        "img", src=data_uri(encode_png(picture.image)), alt=picture.caption or "image",
        width=round(width * scale), height=round(height * scale),
    )  # fmt: skip
    lines = [element("b", text(picture.caption), class_=picture.tone)] if picture.caption else []
    lines += [element("span", text(picture.note))] if picture.note else []
    return element("figure", image, *([element("figcaption", *lines)] if lines else []))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
