from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberfleet.converters.tflite.reader import summarize_tflite
from emberfleet.core.errors import FormatError

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
INT8 = (GOLDEN / "tiny_int8.tflite").read_bytes()


def test_an_int8_file_says_what_goes_in_and_out() -> None:
    found = summarize_tflite(INT8)
    assert found.version == 3
    assert found.operators["CONV_2D"] == 5
    assert found.inputs[0].shape == (1, 9, 9, 2)
    assert found.inputs[0].type == "int8"
    assert found.inputs[0].scale == pytest.approx(1 / 255)
    assert found.outputs[0].shape == (1, 2, 3)
    assert 0 < found.constant_bytes < found.bytes == len(INT8)


def test_a_float_file_has_no_quantization() -> None:
    found = summarize_tflite((GOLDEN / "tiny_float.tflite").read_bytes())
    assert found.inputs[0].scale is None
    assert found.inputs[0].type == "float32"


def test_other_bytes_are_refused() -> None:
    with pytest.raises(FormatError, match="TFL3"):
        summarize_tflite(b"PK\x03\x04 and so on")


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(st.integers(8, len(INT8) - 1), st.integers(0, 255)), max_size=8),
    st.integers(8, len(INT8)),
)
def test_damage_is_a_format_error_or_harmless(changes: list[tuple[int, int]], length: int) -> None:
    damaged = bytearray(INT8)
    for place, value in changes:
        damaged[place] = value
    try:
        summarize_tflite(bytes(damaged[:length]))
    except FormatError:
        return
    assert length > len(INT8) // 2
