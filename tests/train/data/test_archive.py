from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emberfleet.core.errors import ConfigError, DataError
from emberfleet.train.data.archive import Labelling
from emberfleet.train.data.names import load

CODES = Labelling(codes=True)


def picture(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def pack(path: Path, table: str | None, names: tuple[str, ...] = ("a.png", "d/b.png", "c.png")) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        if table is not None:
            archive.writestr("labels.csv", table)
        for n, name in enumerate(names):
            archive.writestr(name, picture(n * 50))
    return path


def test_a_table_inside_the_zip_is_read(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.zip", "file,label\nc.png,dog\na.png,cat\nd/b.png,dog\n")
    dataset = load("zip", path, size=8)
    assert dataset.classes == ("cat", "dog")
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.images[:, 0, 0, 0].tolist() == [100, 0, 50]


def test_a_table_beside_the_zip_is_read(tmp_path: Path) -> None:
    pack(tmp_path / "images.zip", None)
    (tmp_path / "labels.csv").write_bytes("\ufefffile,label\r\na.png,1\r\nc.png,10\r\nd/b.png,9\r\n".encode())
    dataset = load("zip", tmp_path, size=8)
    assert dataset.classes == ("1", "9", "10")
    assert dataset.labels.tolist() == [0, 2, 1]
    assert load("zip", tmp_path / "images.zip", size=8).labels.tolist() == [0, 2, 1]


def test_images_beside_the_table_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(7))
    (tmp_path / "labels.csv").write_text("file,label\na.png,x\n")
    assert load("zip", tmp_path, size=8).images[0, 0, 0, 0] == 7


def test_a_code_has_one_class_per_position(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.zip", "file,label\na.png,B2A\nc.png,AB1\n")
    dataset = load("zip", path, size=8, labelling=CODES)
    assert dataset.classes == ("1", "2", "A", "B")
    assert dataset.labels.tolist() == [[3, 1, 2], [2, 3, 0]]
    assert dataset.positions == 3


def test_codes_of_two_lengths_are_named_with_their_line(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.zip", "file,label\na.png,ABC\nc.png,AB\n")
    with pytest.raises(
        DataError, match=r"labels.csv, line 3: code 'AB' has 2 characters, expected 3 as on line 2"
    ):
        load("zip", path, labelling=CODES)


def test_given_classes_fix_the_order_and_refuse_others(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.zip", "file,label\na.png,2\nc.png,7\n")
    classes = tuple(str(k) for k in range(8))
    assert load("zip", path, size=8, labelling=Labelling(classes=classes)).labels.tolist() == [2, 7]
    with pytest.raises(DataError, match="line 3: label '7' is none of"):
        load("zip", path, labelling=Labelling(classes=classes[:7]))


def test_ignored_labels_are_left_out(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.zip", "file,label\na.png,NaN\nc.png,7\n")
    assert load("zip", path, size=8, labelling=Labelling(ignore=("NaN",))).classes == ("7",)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,digit\na.png,1\n", "line 1: no column 'label'; the columns are 'file', 'digit'"),
        ("", "line 1: no column 'file'"),
        ("file,label\n", "no image is left"),
        ("file,label\na.png\n", "line 2: expected 2 columns"),
        ("file,label\na.png,1,2\n", "line 2: expected 2 columns"),
        ("file,label\na.png,1\na.png,2\n", "line 3: 'a.png' stands on line 2 already"),
        ("file,label\na.png,\n", "line 2: the label of 'a.png' is empty"),
        ("file,label\n../a.png,1\n", "is not a path inside the archive"),
        ("file,label\n/etc/passwd,1\n", "is not a path inside the archive"),
        ("file,label\nz.png,1\n", "holds no file 'z.png'"),
        ('file,label\n"a.png,1\n', "after line 1: unexpected end of data"),
    ],
)
def test_a_wrong_table_is_named_with_its_line(tmp_path: Path, table: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load("zip", pack(tmp_path / "x.zip", table))


def test_a_table_that_is_not_text_is_named_with_its_offset(tmp_path: Path) -> None:
    pack(tmp_path / "x.zip", None)
    (tmp_path / "labels.csv").write_bytes(b"file,label\n\xff.png,1\n")
    with pytest.raises(DataError, match="not UTF-8 text at byte 11"):
        load("zip", tmp_path)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labels.csv", "file,label\na.png,1\n")
        archive.writestr("a.png", picture(1)[:-30])
    with pytest.raises(DataError, match=r"x.zip: a.png: no readable JPEG or PNG"):
        load("zip", path)


def test_flipped_bytes_raise_nothing_but_data_errors(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.zip", "file,label\na.png,1\nd/b.png,2\nc.png,1\n")
    data = np.frombuffer(path.read_bytes(), np.uint8)
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        spoilt = data.copy()
        spoilt[generator.integers(0, len(data), 2)] = generator.integers(0, 256, 2)
        path.write_bytes(spoilt.tobytes())
        try:
            assert load("zip", path, size=4).images.shape == (3, 4, 4, 3)
        except DataError:
            refused += 1
    assert refused > 100


def test_a_truncated_zip_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.zip", "file,label\na.png,1\n")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="as a zip"):
        load("zip", path)


def test_a_zip_bomb_is_refused_unopened(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.csv", "file,label\na.png,1\n")
        archive.writestr("a.png", bytes((64 << 20) + 1))
    with pytest.raises(DataError, match=r"a.png: 67108865 bytes, expected at most 67108864"):
        load("zip", path)


def test_two_zips_in_a_folder_and_a_split_are_refused(tmp_path: Path) -> None:
    pack(tmp_path / "x.zip", "file,label\na.png,1\n")
    pack(tmp_path / "y.zip", "file,label\na.png,1\n")
    with pytest.raises(DataError, match="2 zip files"):
        load("zip", tmp_path)
    with pytest.raises(DataError, match="no split 'test'"):
        load("zip", tmp_path / "x.zip", "test")


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one of: mnist, fashion-mnist"):
        load("imagenet", tmp_path)


def test_the_real_zips_are_read(shared_data: Path) -> None:
    digits = load("zip", shared_data / "meter-digits", size=(32, 20), labelling=Labelling(ignore=("NaN",)))
    assert digits.classes == tuple("0123456789")
    assert digits.class_counts().tolist() == [84, 88, 70, 66, 71, 64, 68, 69, 64, 63]
    pets = load("zip", shared_data / "cats-dogs", size=32)
    assert pets.classes == ("cat", "dog")
    assert pets.class_counts().tolist() == [300, 300]
    caps = Labelling(columns=("line1", "line2"), codes=True)
    assert load("zip", shared_data / "bottle-caps", size=32, labelling=caps).labels.shape == (3, 12)
