from __future__ import annotations

import pytest

from emberfleet.core.errors import DeviceError, in_one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("no device", "no device"),
        ("\n  first \nsecond\n", "first"),
        ("", "unknown"),
        ("build failed: log\n\nwarning: w\nerror: unknown target", "build failed: error: unknown target"),
        ("build failed: log\nx.cl:3:5: error: no 'y'\nerror: other", "build failed: x.cl:3:5: error: no 'y'"),
    ],
)
def test_one_line_of_a_complaint_is_the_one_that_says_the_most(text: str, line: str) -> None:
    assert in_one_line(DeviceError(text)) == line
