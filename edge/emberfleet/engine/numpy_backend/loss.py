"""Softmax and its cross-entropy, over the last axis."""

from __future__ import annotations

import numpy as np

from emberfleet.core.arrays import Int64, Real


def softmax(logits: Real, out: Real) -> None:
    """``exp(x) / sum(exp(x))``, safe for large values; `out` may be `logits`."""
    np.subtract(logits, logits.max(axis=-1, keepdims=True), out=out)
    np.exp(out, out=out)
    out /= out.sum(axis=-1, keepdims=True)


def softmax_cross_entropy(logits: Real, labels: Int64, smoothing: float, dlogits: Real | None) -> float:
    """Mean over rows of ``-sum over k of t[k] * log softmax(logits)[k]``, and its gradient.

    The target t is ``1 - smoothing`` at the label plus ``smoothing / K`` everywhere.

    Args:
        logits: ``(rows, K)``.
        labels: ``(rows,)`` class indices.
        smoothing: Share of the target spread over all classes.
        dlogits: ``(rows, K)``; receives ``(softmax - t) / rows``. None: not wanted.
    """
    rows = np.arange(len(logits))
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1, keepdims=True)
    logs = shifted - np.log(sums)
    loss = -(1.0 - smoothing) * float(logs[rows, labels].mean(dtype=np.float64))
    if smoothing:
        loss -= smoothing * float(logs.mean(dtype=np.float64))
    if dlogits is not None:
        np.divide(exponentials, sums, out=dlogits)
        dlogits[rows, labels] -= 1.0 - smoothing
        if smoothing:
            dlogits -= smoothing / logits.shape[1]
        dlogits /= len(logits)
    return loss
