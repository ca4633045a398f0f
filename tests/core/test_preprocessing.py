from __future__ import annotations

import numpy as np
import pytest

from emberfleet.core.errors import FormatError, ShapeError
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.core.quantization import QuantParams


def test_pixels_are_scaled_by_channel() -> None:
    rule = Preprocessing(1, 1, 3, (0.5, 0.0, 0.25), (0.5, 1.0, 2.0))
    x = rule.apply(np.array([[[[255, 255, 0]]]], np.uint8))
    np.testing.assert_allclose(x[0, 0, 0], [1.0, 1.0, -0.125], rtol=1e-6)
    assert rule.range == (-1.0, 1.0)


def test_plain_grey_levels_survive_quantization() -> None:
    rule = Preprocessing(16, 16, 1)
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    q = QuantParams.from_range(*rule.range).quantize(rule.apply(images))
    np.testing.assert_array_equal(q.astype(np.int64) + 128, images)


def test_json_round_trip_is_identity() -> None:
    rule = Preprocessing(28, 20, 3, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Preprocessing.from_json(rule.to_json()) == rule


@pytest.mark.parametrize(
    "broken",
    [
        None,
        {},
        {"height": 2, "width": 2, "channels": 1, "mean": [0], "std": [0.0]},
        {"height": 2.5, "width": 2, "channels": 1, "mean": [0], "std": [1]},
        {"height": 2, "width": 2, "channels": 7, "mean": [0], "std": [1]},
        {"height": 1 << 40, "width": 2, "channels": 1, "mean": [0], "std": [1]},
        {"height": 2, "width": 2, "channels": 1, "mean": [float("nan")], "std": [1]},
        {"height": 2, "width": 2, "channels": 1, "mean": [10**400], "std": [1]},
    ],
)
def test_a_broken_description_is_refused(broken: object) -> None:
    with pytest.raises(FormatError, match="preprocessing"):
        Preprocessing.from_json(broken)


@pytest.mark.parametrize("shape", [(28, 28, 1), (1, 28, 27, 1), (1, 28, 28, 3)])
def test_images_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"expected uint8 \(N, 28, 28, 1\)"):
        Preprocessing(28, 28, 1).apply(np.zeros(shape, np.uint8))
