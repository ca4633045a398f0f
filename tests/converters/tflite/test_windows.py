from __future__ import annotations

import pytest

from emberfleet.converters.tflite.model import TflitePadding
from emberfleet.converters.tflite.windows import NO_PADDING, Run, Window
from emberfleet.core.nodes import Padding, ceil_padding

CEIL_28 = ceil_padding((28, 28), (3, 3), (2, 2))


@pytest.mark.parametrize(
    ("size", "window", "scheme", "before"),
    [
        ((28, 28), Window((3, 3), (1, 1), (1, 1, 1, 1)), TflitePadding.SAME, NO_PADDING),
        ((28, 28), Window((3, 3), (2, 2), CEIL_28), TflitePadding.SAME, NO_PADDING),
        ((9, 9), Window((3, 3), (2, 2), (0, 0, 1, 1)), TflitePadding.VALID, NO_PADDING),
        ((7, 7), Window((3, 3), (2, 2), (1, 1, 1, 1)), TflitePadding.SAME, NO_PADDING),
        ((8, 8), Window((3, 3), (2, 2), (1, 1, 1, 1)), TflitePadding.VALID, (1, 1, 0, 0)),
        ((8, 8), Window((3, 3), (2, 2), (0, 0, 1, 1)), TflitePadding.SAME, NO_PADDING),
        ((8, 5), Window((3, 1), (1, 1), (2, 0, 0, 0)), TflitePadding.VALID, (2, 0, 0, 0)),
        ((5, 5), Window((1, 1), (1, 1), NO_PADDING), TflitePadding.VALID, NO_PADDING),
    ],
)  # fmt: skip
def test_explicit_padding_comes_down_to_a_scheme(
    size: tuple[int, int], window: Window, scheme: TflitePadding, before: Padding
) -> None:
    assert window.reach(size) == (scheme, before)


@pytest.mark.parametrize(
    ("size", "window", "rows", "columns"),
    [
        (
            (8, 8), Window((3, 3), (2, 2), (1, 1, 1, 1)),
            [Run(0, 2, 1), Run(1, 3, 3)], [Run(0, 2, 1), Run(1, 3, 3)],
        ),
        (
            (6, 5), Window((2, 3), (2, 1), (0, 1, 0, 2)),
            [Run(0, 2, 3)], [Run(0, 2, 1), Run(0, 3, 3), Run(3, 2, 1), Run(4, 1, 1)],
        ),
        (
            (2, 1), Window((4, 1), (1, 1), (3, 0, 3, 0)),
            [Run(0, 1, 1), Run(0, 2, 1), Run(0, 2, 1), Run(0, 2, 1), Run(1, 1, 1)], [Run(0, 1, 1)],
        ),
    ],
)  # fmt: skip
def test_windows_are_grouped_by_the_pixels_they_hold(
    size: tuple[int, int], window: Window, rows: list[Run], columns: list[Run]
) -> None:
    assert window.runs(size) == (rows, columns)
