from __future__ import annotations

import pytest

from emberfleet.converters.tflite.drawing import NO_PADDING, Window
from emberfleet.converters.tflite.model import TflitePadding
from emberfleet.core.graph import Padding, ceil_padding

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
