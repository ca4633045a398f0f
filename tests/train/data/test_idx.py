from __future__ import annotations

import gzip
import hashlib
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberfleet.core.arrays import Array
from emberfleet.core.errors import DataError
from emberfleet.train.data.idx import encode_idx, read_idx
from emberfleet.train.data.names import load

TYPES = ("u1", "i1", "i2", "i4", "f4", "f8")


def write(path: Path, data: bytes, packed: bool = False) -> Path:
    path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    return path


def write_mnist(root: Path, images: Array, labels: list[int], packed: bool = True) -> None:
    end = ".gz" if packed else ""
    write(root / f"train-images-idx3-ubyte{end}", encode_idx(images), packed)
    write(root / f"train-labels-idx1-ubyte{end}", encode_idx(np.array(labels, np.uint8)), packed)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (0, 4, 4), (1, 2, 3, 4)])
def test_every_type_comes_back_as_it_was(
    tmp_path: Path, dtype: str, packed: bool, shape: tuple[int, ...]
) -> None:
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    found = read_idx(write(tmp_path / "file", encode_idx(array), packed))
    assert found.dtype == array.dtype
    assert found.dtype.isnative
    assert np.array_equal(found, array)


def test_the_layout_is_the_published_one() -> None:
    assert encode_idx(np.array([[1, -2]], np.int16)) == b"\0\0\x0b\x02" + struct.pack(">IIhh", 1, 2, 1, -2)


@pytest.mark.parametrize(
    "magic", [b"\x01\0\x08\x01", b"\0\0\x0a\x01", b"\0\0\x08\0", b"\0\0\x08\x05", b"PK\3\4"]
)
def test_a_wrong_magic_number_is_named(tmp_path: Path, magic: bytes) -> None:
    path = write(tmp_path / "file", magic + bytes(40))
    with pytest.raises(DataError, match=rf"file: magic number {magic.hex()} at byte 0"):
        read_idx(path)


@given(cut=st.integers(0, 15 + 4 * 9))
@settings(max_examples=60)
def test_a_truncated_file_is_named_with_its_end(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    data = encode_idx(np.zeros((4, 3, 3), np.uint8))
    path = write(tmp_path_factory.mktemp("idx") / "file", data[:cut])
    with pytest.raises(DataError, match=f"file: ends at byte {cut}, expected"):
        read_idx(path)


def test_a_truncated_gzip_file_is_named_with_its_offset(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 28, 28)).astype(np.uint8)
    packed = gzip.compress(encode_idx(pixels))
    for cut in (5, len(packed) // 2, len(packed) - 8, len(packed) - 1):
        path = write(tmp_path / "file.gz", packed[:cut])
        with pytest.raises(DataError, match=r"file.gz: truncated.* after byte \d+"):
            read_idx(path)


def test_damage_inside_a_gzip_file_is_found(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(encode_idx(np.arange(20000, dtype=np.int32))))
    for place in (len(packed) // 2, len(packed) - 6):
        spoilt = bytearray(packed)
        spoilt[place] ^= 0x55
        with pytest.raises(DataError, match=r"file.gz"):
            read_idx(write(tmp_path / "file.gz", bytes(spoilt)))


def test_bytes_behind_the_end_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "file", encode_idx(np.zeros(3, np.uint8)) + b"x")
    with pytest.raises(DataError, match="go on after byte 11"):
        read_idx(path)


def test_a_header_that_promises_too_much_costs_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "file", b"\0\0\x08\x04" + b"\xff" * 16)
    tracemalloc.start()
    with pytest.raises(DataError, match="at byte 4 need"):
        read_idx(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_gzip_bomb_is_left_after_what_its_header_promised(tmp_path: Path) -> None:
    path = write(tmp_path / "file.gz", encode_idx(np.zeros(10, np.uint8)) + bytes(200 << 20), packed=True)
    tracemalloc.start()
    with pytest.raises(DataError, match="go on after byte 18"):
        read_idx(path)
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


def test_types_the_format_lacks_are_refused() -> None:
    with pytest.raises(DataError, match="int64"):
        encode_idx(np.zeros(3, np.int64))


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_read_packed_or_not(tmp_path: Path, packed: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28)).astype(np.uint8)
    write_mnist(tmp_path, images, [3, 1, 9], packed)
    dataset = load("mnist", tmp_path)
    assert np.array_equal(dataset.images[..., 0], images)
    assert dataset.labels.tolist() == [3, 1, 9]
    assert load("mnist", tmp_path, size=14).images.shape == (3, 14, 14, 1)


def test_a_label_out_of_range_is_named_with_its_offset(tmp_path: Path) -> None:
    write_mnist(tmp_path, np.zeros((3, 4, 4), np.uint8), [0, 9, 10])
    with pytest.raises(DataError, match=r"labels-idx1-ubyte.gz: label 10 at byte 10, expected 0 to 9"):
        load("mnist", tmp_path)


def test_different_numbers_of_images_and_labels_are_named(tmp_path: Path) -> None:
    write_mnist(tmp_path, np.zeros((3, 4, 4), np.uint8), [0, 1])
    with pytest.raises(DataError, match=r"2 labels at byte 4, expected 3.*images-idx3-ubyte.gz"):
        load("mnist", tmp_path)


def test_images_of_the_wrong_type_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, np.zeros((3, 4, 4), np.int32), [0, 1, 2])
    with pytest.raises(DataError, match="int32"):
        load("mnist", tmp_path)


def test_a_missing_file_and_a_missing_split_say_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither train-images-idx3-ubyte.gz nor"):
        load("mnist", tmp_path)
    with pytest.raises(DataError, match="expected one of: train, test"):
        load("mnist", tmp_path, "validation")
    with pytest.raises(DataError, match="does not exist"):
        load("mnist", tmp_path / "nowhere")


def test_the_real_mnist_is_read_whole(shared_data: Path) -> None:
    test = load("mnist", shared_data / "mnist", "test")
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert test.images.shape == (10_000, 28, 28, 1)
    assert test.class_counts().tolist() == counts
    digest = hashlib.sha256(encode_idx(test.images[..., 0])).hexdigest()
    assert digest == "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
    assert load("mnist", shared_data / "mnist").class_counts().sum() == 60_000


def test_the_real_fashion_mnist_is_read_whole(shared_data: Path) -> None:
    test = load("fashion-mnist", shared_data / "fashion-mnist", "test")
    assert test.class_counts().tolist() == [1000] * 10
    assert test.classes[9] == "ankle boot"
