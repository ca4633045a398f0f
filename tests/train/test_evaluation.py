"""Figures over logits, checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emberfleet.core.arrays import Float32, Int64
from emberfleet.core.errors import ShapeError
from emberfleet.train.evaluation import evaluate, softmax, top_k_accuracy, worst_mistakes

LOGITS = np.array([[2, 1, 0], [0, 3, 1], [5, 0, 1], [0, 1, 2]], np.float32)
LABELS = np.array([0, 1, 1, 0])


def test_confusion_matrix_counts_true_classes_by_row() -> None:
    found = evaluate(LOGITS, LABELS)
    assert found.confusion.tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert found.accuracy == found.code_accuracy == 0.5


def test_loss_is_the_mean_negative_logarithm_of_the_true_class() -> None:
    rows = [np.exp(row) / np.exp(row).sum() for row in LOGITS.astype(np.float64)]
    expected = -np.mean([np.log(row[label]) for row, label in zip(rows, LABELS, strict=True)])
    assert evaluate(LOGITS, LABELS).loss == pytest.approx(expected)


def test_a_code_is_right_only_where_every_position_is() -> None:
    logits = np.array([[[1, 0], [0, 1]], [[1, 0], [1, 0]]], np.float32)
    found = evaluate(logits, np.array([[0, 1], [0, 1]]))
    assert (found.accuracy, found.code_accuracy) == (0.75, 0.5)
    assert found.confusion.tolist() == [[2, 0], [1, 1]]


def test_top_k_counts_true_classes_among_the_k_highest() -> None:
    assert [top_k_accuracy(LOGITS, LABELS, k) for k in (1, 2, 3)] == [0.5, 0.5, 1.0]


def test_of_equal_scores_the_first_class_counts_wherever_the_true_one_stands() -> None:
    equal = np.zeros((5, 5), np.float32)
    for k in range(1, 6):
        right = [top_k_accuracy(equal[n : n + 1], np.array([n]), k) for n in range(5)]
        assert right == [1.0 if n < k else 0.0 for n in range(5)]


@given(hnp.arrays(np.float32, (6, 7), elements=st.integers(-2, 2)), st.integers(1, 7))
def test_top_k_is_what_a_stable_sort_puts_in_front(logits: Float32, k: int) -> None:
    labels = np.arange(6) % 7
    front = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    expected = np.mean([label in row for label, row in zip(labels, front, strict=True)])
    assert top_k_accuracy(logits, labels, k) == pytest.approx(expected)
    assert top_k_accuracy(logits, labels, 1) == evaluate(logits, labels).accuracy


def test_worst_mistakes_come_in_order_of_their_certainty() -> None:
    found = worst_mistakes(LOGITS, LABELS, 10)
    assert [(m.index, m.true, m.predicted) for m in found] == [(2, 1, 0), (3, 0, 2)]
    assert found[0].confidence == pytest.approx(float(softmax(LOGITS)[2].max()))
    assert len(worst_mistakes(LOGITS, LABELS, 1)) == 1


def test_mistakes_of_a_code_name_their_position() -> None:
    logits = np.array([[[1, 0], [9, 0]]], np.float32)
    (mistake,) = worst_mistakes(logits, np.array([[0, 1]]), 5)
    assert (mistake.position, mistake.true, mistake.predicted) == (1, 1, 0)


def test_huge_logits_do_not_overflow() -> None:
    found = evaluate(np.array([[1e4, -1e4]], np.float32), np.array([1]))
    assert np.isfinite(found.loss)


@pytest.mark.parametrize("labels", [np.array([0, 1, 1]), np.array([0, 1, 1, 3]), np.array([0, 1, 1, -1])])
def test_labels_that_do_not_fit_the_logits_are_refused(labels: Int64) -> None:
    with pytest.raises(ShapeError):
        evaluate(LOGITS, labels)
