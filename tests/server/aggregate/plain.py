"""Slow, plain twins of the rules: one coordinate or one pair of updates at a time, in Python's numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

Vector = Sequence[float]


def weighted_mean(vectors: Sequence[Vector], weights: Sequence[float]) -> list[float]:
    """Exact until the last division."""
    total = sum(Fraction(weight) for weight in weights)
    columns = zip(*vectors, strict=True)
    return [
        float(sum(Fraction(w) * Fraction(x) for w, x in zip(weights, column, strict=True)) / total)
        for column in columns
    ]


def norm(vector: Vector) -> float:
    return math.sqrt(math.fsum(x * x for x in vector))


def distance(a: Vector, b: Vector) -> float:
    return norm([x - y for x, y in zip(a, b, strict=True)])


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def coordinate_median(vectors: Sequence[Vector]) -> list[float]:
    return [median(column) for column in zip(*vectors, strict=True)]


def trimmed_mean(vectors: Sequence[Vector], trimmed: int) -> list[float]:
    kept = [sorted(column)[trimmed : len(vectors) - trimmed] for column in zip(*vectors, strict=True)]
    return [math.fsum(column) / len(column) for column in kept]


def clipped_mean(vectors: Sequence[Vector], weights: Sequence[float], bound: float) -> list[float]:
    limit = bound or median([norm(vector) for vector in vectors])
    clipped = [[x * min(1.0, limit / norm(v)) if norm(v) else x for x in v] for v in vectors]
    return weighted_mean(clipped, weights)


def krum_scores(vectors: Sequence[Vector], byzantine: int) -> list[float]:
    near = len(vectors) - byzantine - 2
    found = []
    for i, a in enumerate(vectors):
        others = sorted(distance(a, b) ** 2 for j, b in enumerate(vectors) if i != j)
        found.append(math.fsum(others[:near]))
    return found


def geometric_median(
    vectors: Sequence[Vector], weights: Sequence[float], smoothing: float, steps: int
) -> list[float]:
    at = weighted_mean(vectors, weights)
    for _ in range(steps):
        pulls = [w / max(smoothing, distance(at, v)) for w, v in zip(weights, vectors, strict=True)]
        columns = zip(*vectors, strict=True)
        at = [
            math.fsum(w * x for w, x in zip(pulls, column, strict=True)) / math.fsum(pulls)
            for column in columns
        ]
    return at
