from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.make_tflite import make_files

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


@pytest.mark.parametrize("name", ["tiny_int8.tflite", "tiny_float.tflite", "mobile_int8.tflite"])
def test_the_writers_give_the_golden_bytes(name: str) -> None:
    assert make_files()[name] == (GOLDEN / name).read_bytes()
