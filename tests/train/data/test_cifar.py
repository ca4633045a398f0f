from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from emberfleet.core.arrays import UInt8
from emberfleet.core.errors import DataError
from emberfleet.train.data.cifar import RECORD_BYTES, decode_records
from emberfleet.train.data.names import load


def records(labels: list[int], seed: int = 0) -> tuple[bytes, UInt8]:
    """Records as the format states them, and their ``(N, H, W, C)`` images."""
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 32, 32, 3)).astype(np.uint8)
    data = b"".join(
        bytes([label]) + b"".join(image[..., c].tobytes() for c in range(3))
        for label, image in zip(labels, images, strict=True)
    )
    return data, images


def pack_archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def test_planes_become_channels() -> None:
    data, images = records([3, 9])
    dataset = decode_records(data, "file")
    assert np.array_equal(dataset.images, images)
    assert dataset.labels.tolist() == [3, 9]


@pytest.mark.parametrize("packed", [False, True])
def test_batches_are_joined_in_the_order_of_their_names(tmp_path: Path, packed: bool) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name, labels in {"data_batch_2": [4], "data_batch_1": [1, 2], "test_batch": [7]}.items():
        data, _ = records(labels)
        path = folder / f"{name}.bin{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(data) if packed else data)
    assert load("cifar10", tmp_path).labels.tolist() == [1, 2, 4]
    assert load("cifar10", folder, "test").labels.tolist() == [7]


def test_the_archive_of_the_authors_is_read(tmp_path: Path) -> None:
    first, images = records([5, 6])
    folder = "cifar-10-batches-bin"
    members = {
        f"{folder}/data_batch_2.bin": records([8])[0],
        f"{folder}/batches.meta.txt": b"airplane\n",
        f"{folder}/data_batch_1.bin": first,
        "elsewhere/data_batch_3.bin": b"never read",
        f"{folder}/test_batch.bin": records([0])[0],
    }
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(pack_archive(members))
    dataset = load("cifar10", tmp_path)
    assert dataset.labels.tolist() == [5, 6, 8]
    assert np.array_equal(dataset.images[:2], images)
    assert load("cifar10", tmp_path / "cifar-10-binary.tar.gz", "test").labels.tolist() == [0]


def test_a_label_out_of_range_is_named_with_its_offset(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(records([1, 10])[0])
    with pytest.raises(DataError, match=rf"data_batch_1.bin: label 10 at byte {RECORD_BYTES}"):
        load("cifar10", tmp_path)


def test_a_record_cut_short_is_named_with_its_offset(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(records([1, 2])[0][:-1])
    with pytest.raises(DataError, match=f"data_batch_1.bin: ends at byte {2 * RECORD_BYTES - 1}"):
        load("cifar10", tmp_path)


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin.gz").write_bytes(gzip.compress(bytes(60_001 * RECORD_BYTES), 1))
    with pytest.raises(DataError, match="refused"):
        load("cifar10", tmp_path)


def test_a_damaged_archive_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    packed = pack_archive({"cifar-10-batches-bin/data_batch_1.bin": records([1, 2, 3])[0]})
    path = tmp_path / "cifar-10-binary.tar.gz"
    for cut in (3, 20, len(packed) // 2, len(packed) - 4):
        path.write_bytes(packed[:cut])
        with pytest.raises(DataError, match=r"cifar-10-binary.tar.gz"):
            load("cifar10", tmp_path)
    path.write_bytes(b"not an archive at all" * 100)
    with pytest.raises(DataError, match="damaged tar archive"):
        load("cifar10", tmp_path)


def test_an_archive_without_the_batches_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds neither"):
        load("cifar10", tmp_path)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(pack_archive({"readme": b"x"}))
    with pytest.raises(DataError, match="holds no train batch"):
        load("cifar10", tmp_path)


def test_the_real_subset_is_read(shared_data: Path) -> None:
    dataset = load("cifar10", shared_data / "cifar10-subset")
    assert dataset.images.shape == (10_000, 32, 32, 3)
    assert dataset.class_counts().tolist() == [1005, 974, 1032, 1016, 999, 937, 1030, 1001, 1025, 981]
