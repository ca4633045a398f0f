from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emberfleet.core.arrays import UInt8
from emberfleet.core.errors import DataError
from emberfleet.train.data.images import decode_image
from emberfleet.train.data.names import load

EXIF_ORIENTATION = 0x0112


def encode(
    pixels: UInt8, kind: str = "PNG", orientation: int | None = None, mode: str | None = None
) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    if orientation:
        exif[EXIF_ORIENTATION] = orientation
    (image.convert(mode) if mode else image).save(stream, kind, exif=exif)
    return stream.getvalue()


def flat(value: int, h: int = 8, w: int = 8) -> UInt8:
    return np.full((h, w, 3), value, np.uint8)


def halves(h: int = 16, w: int = 32) -> UInt8:
    """Red on the left, blue on the right."""
    pixels = np.zeros((h, w, 3), np.uint8)
    pixels[:, : w // 2, 0] = 255
    pixels[:, w // 2 :, 2] = 255
    return pixels


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def test_a_folder_is_read_class_by_class(tmp_path: Path) -> None:
    for name, value in (
        ("dog/b.png", 3),
        ("dog/a.PNG", 2),
        ("cat/x.jpeg", 1),
        ("dog/notes.txt", 0),
        (".git/a.png", 0),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(flat(value * 60), "JPEG" if name.endswith("jpeg") else "PNG"))
    dataset = load("folder", tmp_path, size=8)
    assert dataset.classes == ("cat", "dog")
    assert dataset.labels.tolist() == [0, 1, 1]
    assert dataset.images[:, 0, 0, 0].tolist() == [60, 120, 180]
    assert load("folder", tmp_path, size=(4, 6), channels=1).images.shape == (3, 4, 6, 1)


def test_a_folder_divided_into_train_and_test_is_read_in_parts(tmp_path: Path) -> None:
    for n, name in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.png").write_bytes(encode(flat(n)))
    assert load("folder", tmp_path, "train", size=8).images[:, 0, 0, 0].tolist() == [0, 1]
    assert load("folder", tmp_path, "test", size=8).images[:, 0, 0, 0].tolist() == [2, 3]
    with pytest.raises(DataError, match="no folder 'other'"):
        load("folder", tmp_path, "other")


def test_a_class_called_train_is_not_taken_for_a_part(tmp_path: Path) -> None:
    for name in ("plane", "train"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(encode(flat(0)))
    assert load("folder", tmp_path).classes == ("plane", "train")


def test_the_centre_is_kept_when_the_shape_differs() -> None:
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 200
    assert (decode_image(encode(pixels), "x", (8, 8), 3) == 200).all()


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (8, 1), (3, 2), (6, 3)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_camera_orientation_is_honoured(orientation: int, turns: int, kind: str) -> None:
    pixels = halves(16, 32)
    upright = np.rot90(pixels, turns).astype(np.int64)
    found = decode_image(encode(pixels, kind, orientation), "x", upright.shape[:2], 3).astype(np.int64)
    assert np.abs(found - upright).mean() < 12


def test_transparent_becomes_white_and_palettes_become_colours() -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:, :2] = (10, 20, 30, 255)
    found = decode_image(encode(pixels), "x", (4, 4), 3)
    assert found[0, 0].tolist() == [10, 20, 30]
    assert found[0, 3].tolist() == [255, 255, 255]
    assert decode_image(encode(halves(), mode="P"), "x", (16, 32), 3)[0, 0].tolist() == [255, 0, 0]


def test_large_photos_are_scaled_down_faithfully() -> None:
    ramp = np.tile(np.linspace(0, 255, 1200).astype(np.uint8)[None, :, None], (900, 1, 3))
    found = decode_image(encode(ramp, "JPEG"), "x", (30, 40), 3)[15, :, 0].astype(np.float64)
    assert np.abs(found - np.linspace(3, 252, 40)).max() < 3


@pytest.mark.parametrize("width", [8001, 40_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_unopened(width: int) -> None:
    with pytest.raises(DataError, match=r"bomb.png.*(refused|readable)"):
        decode_image(png_header(width, 8000), "bomb.png", (8, 8), 3)


def test_every_cut_of_a_photo_is_refused_or_read_but_never_crashes() -> None:
    for kind in ("JPEG", "PNG"):
        data = encode(np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8), kind)
        for cut in range(0, len(data) - 20, 7):
            with pytest.raises(DataError, match=r"cut.jpg"):
                decode_image(data[:cut], "cut.jpg", (8, 8), 3)


def test_flipped_bytes_raise_nothing_but_data_errors() -> None:
    generator = np.random.default_rng(0)
    for kind in ("JPEG", "PNG"):
        data = np.frombuffer(encode(halves(), kind, orientation=6), np.uint8)
        for _ in range(300):
            spoilt = data.copy()
            spoilt[generator.integers(0, len(data), 3)] = generator.integers(0, 256, 3)
            try:
                found = decode_image(spoilt.tobytes(), "x", (8, 8), 3)
            except DataError:
                continue
            assert found.shape == (8, 8, 3)


def test_other_formats_and_depths_are_refused() -> None:
    stream = io.BytesIO()
    Image.fromarray(flat(1)).save(stream, "GIF")
    with pytest.raises(DataError, match=r"x.gif: no readable JPEG or PNG"):
        decode_image(stream.getvalue(), "x.gif", (8, 8), 3)
    deep = io.BytesIO()
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(deep, "PNG")
    with pytest.raises(DataError, match="16 bits"):
        decode_image(deep.getvalue(), "deep.png", (4, 4), 1)


def test_folders_that_hold_no_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        load("folder", tmp_path / "nowhere")
    (tmp_path / "one").mkdir()
    with pytest.raises(DataError, match="1 sub-folders, expected at least two"):
        load("folder", tmp_path)
    (tmp_path / "two").mkdir()
    with pytest.raises(DataError, match="one holds no image"):
        load("folder", tmp_path)


def test_a_size_that_needs_too_much_memory_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for n in range(50):
            (tmp_path / name / f"{n}.png").write_bytes(b"never opened")
    with pytest.raises(DataError, match="choose a smaller size"):
        load("folder", tmp_path, size=4096)
    with pytest.raises(DataError, match="1 to 4096"):
        load("folder", tmp_path, size=0)
