"""How well a network does, from its logits: accuracy, confusion, the worst mistakes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emberfleet.core.arrays import Float32, Float64, Int64
from emberfleet.core.errors import ShapeError


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures over one data set.

    Attributes:
        accuracy: Share of characters right; for one class per image, of images.
        code_accuracy: Share of images with every position right; equal to `accuracy` for one.
        loss: Mean cross-entropy over images and positions.
        confusion: ``(K, K)`` counts, row the true class, column the predicted one.
    """

    accuracy: float
    code_accuracy: float
    loss: float
    confusion: Int64


@dataclass(frozen=True, slots=True)
class Mistake:
    """One image that the network got wrong."""

    index: int
    position: int
    true: int
    predicted: int
    confidence: float
    """Probability that the network gave to the wrong class."""


def evaluate(logits: Float32, labels: Int64) -> Evaluation:
    """Compare logits with labels.

    Args:
        logits: ``(N, K)``, or ``(N, P, K)`` for one class at each of P positions.
        labels: ``(N,)`` or ``(N, P)``, classes in [0, K).

    Raises:
        ShapeError: the shapes do not belong together, or a label is no class.
    """
    scores, truth = _by_position(logits, labels)
    predicted = scores.argmax(axis=2)
    right = predicted == truth
    probabilities = softmax(scores)
    chosen = np.take_along_axis(probabilities, truth[..., None], axis=2)[..., 0]
    count = scores.shape[2]
    cells = (truth * count + predicted).ravel().astype(np.intp)
    confusion = np.bincount(cells, minlength=count * count)
    return Evaluation(
        accuracy=float(right.mean()),
        code_accuracy=float(right.all(axis=1).mean()),
        loss=float(-np.log(np.maximum(chosen, 1e-30)).mean()),
        confusion=confusion.reshape(count, count).astype(np.int64),
    )


def top_k_accuracy(logits: Float32, labels: Int64, k: int) -> float:
    """Share of characters whose true class is among the k highest logits; of equal ones the first counts.

    Scores in 8 bits are often equal, so the order of equal ones is part of what is measured.
    """
    scores, truth = _by_position(logits, labels)
    if not 0 < k <= scores.shape[2]:
        raise ShapeError(f"top {k} of {scores.shape[2]} classes; expected 1 to all of them")
    own = np.take_along_axis(scores, truth[..., None], axis=2)
    earlier = np.arange(scores.shape[2]) < truth[..., None]
    ahead = (scores > own) | ((scores == own) & earlier)
    return float((ahead.sum(axis=2) < k).mean())


def worst_mistakes(logits: Float32, labels: Int64, limit: int) -> list[Mistake]:
    """The wrong answers that the network was most certain of, worst first."""
    scores, truth = _by_position(logits, labels)
    predicted = scores.argmax(axis=2)
    confidence = softmax(scores).max(axis=2)
    images, positions = np.nonzero(predicted != truth)
    order = np.argsort(-confidence[images, positions], kind="stable")[:limit]
    return [
        Mistake(int(n), int(p), int(truth[n, p]), int(predicted[n, p]), float(confidence[n, p]))
        for n, p in zip(images[order], positions[order], strict=True)
    ]


def softmax(logits: Float32) -> Float64:
    """``exp(x) / sum(exp(x))`` over the last axis, in float64."""
    x = logits.astype(np.float64)
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    probabilities: Float64 = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def _by_position(logits: Float32, labels: Int64) -> tuple[Float32, Int64]:
    """Logits as ``(N, P, K)`` and labels as ``(N, P)``."""
    if logits.ndim not in (2, 3) or logits.shape[:-1] != labels.shape or not len(labels):
        raise ShapeError(
            f"logits are {logits.shape}, labels {labels.shape}; expected (N, K) with (N,) or (N, P, K) "
            "with (N, P), N at least 1"
        )
    if labels.min() < 0 or labels.max() >= logits.shape[-1]:
        raise ShapeError(
            f"labels run from {labels.min()} to {labels.max()}, expected 0 to {logits.shape[-1] - 1}"
        )
    scores = logits if logits.ndim == 3 else logits[:, None, :]
    truth = labels if labels.ndim == 2 else labels[:, None]
    return scores, truth.astype(np.int64)
