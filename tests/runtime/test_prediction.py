from __future__ import annotations

import numpy as np
import pytest

from emberfleet.runtime.prediction import Prediction


def test_probabilities_are_those_of_the_softmax() -> None:
    found = Prediction.of(np.log(np.array([[1, 3], [1, 1]], np.float32)), ("a", "b"))
    np.testing.assert_allclose(found.probabilities, [[0.25, 0.75], [0.5, 0.5]], rtol=1e-6)
    assert found.classes.tolist() == [1, 0]
    assert found.labels() == [("b",), ("a",)]


def test_large_logits_do_not_overflow() -> None:
    found = Prediction.of(np.array([[1e4, 0.0]], np.float32), ("a", "b"))
    assert found.probabilities.tolist() == [[1.0, 0.0]]


def test_the_best_classes_come_first_at_every_position() -> None:
    logits = np.array([[[0, 2, 1], [5, 0, 0]]], np.float32)
    found = Prediction.of(logits, ("x", "y", "z"))
    assert found.labels() == [("y", "x")]
    first, second = found.top(2)[0]
    assert [name for name, _ in first] == ["y", "z"]
    assert [name for name, _ in second] == ["x", "y"]
    assert first[0][1] == pytest.approx(np.exp(2) / (1 + np.e + np.exp(2)))
