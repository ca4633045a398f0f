from __future__ import annotations

import numpy as np
import pytest

from emberfleet.engine.numpy_backend.loss import softmax, softmax_cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_of_cross_entropy_is_the_central_difference(smoothing: float) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(5, 4)), rng.integers(0, 4, 5)
    dlogits = np.empty_like(logits)
    softmax_cross_entropy(logits, labels, smoothing, dlogits)
    for place in np.ndindex(5, 4):
        sides = []
        for sign in (1.0, -1.0):
            moved = logits.copy()
            moved[place] += sign * 1e-6
            sides.append(softmax_cross_entropy(moved, labels, smoothing, None))
        assert dlogits[place] == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-8)


def test_uniform_logits_lose_the_logarithm_of_the_classes() -> None:
    loss = softmax_cross_entropy(np.full((3, 10), 5.0), np.array([0, 3, 9]), 0.1, None)
    assert loss == pytest.approx(np.log(10.0))


def test_logits_too_large_to_exponentiate_are_safe() -> None:
    logits = np.array([[1e4, 0.0], [-1e4, 0.0]], np.float32)
    out = np.empty_like(logits)
    softmax(logits, out)
    np.testing.assert_array_equal(out, [[1, 0], [0, 1]])
    assert softmax_cross_entropy(logits, np.array([1, 1]), 0.0, out) == pytest.approx(5e3)
