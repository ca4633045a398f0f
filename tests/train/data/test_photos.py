from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emberfleet.core.errors import DataError
from emberfleet.train.data.photos import load_photos


def photo(path: Path, grey: int, size: tuple[int, int] = (9, 7)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey, grey)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(5):
        photo(tmp_path / f"{index}.png", 10 * index)
    photo(tmp_path / "more" / "deep" / "z.PNG", 200)
    photo(tmp_path / ".hidden" / "a.png", 255)
    (tmp_path / "notes.txt").write_text("no photo")
    return tmp_path


def test_photos_of_all_sub_folders_are_brought_to_one_size(folder: Path) -> None:
    images = load_photos(folder, (4, 6), 3, 100)
    assert images.shape == (6, 4, 6, 3)
    assert images[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 200]


def test_of_many_photos_evenly_spaced_ones_are_read(folder: Path) -> None:
    assert load_photos(folder, (4, 4), 1, 3)[:, 0, 0, 0].tolist() == [0, 20, 200]
    np.testing.assert_array_equal(load_photos(folder, (4, 4), 1, 1), 0)


def test_a_folder_that_is_missing_empty_or_damaged_says_so(folder: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        load_photos(folder / "nowhere", (4, 4), 3, 9)
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no photo, expected files that end in \.jpg"):
        load_photos(folder / "empty", (4, 4), 3, 9)
    (folder / "0.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"0\.png: no readable JPEG or PNG"):
        load_photos(folder, (4, 4), 3, 9)
