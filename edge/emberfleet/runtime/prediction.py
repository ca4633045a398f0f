"""What a network says about images: classes and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emberfleet.core.arrays import Float32, Int64


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for N images, of one class each or one at each of P positions.

    Attributes:
        classes: ``(N,)`` or ``(N, P)`` indices of the most probable class.
        probabilities: ``(N, K)`` or ``(N, P, K)``, each row sums to 1.
        names: The K class names.
    """

    classes: Int64
    probabilities: Float32
    names: tuple[str, ...]

    @staticmethod
    def of(logits: Float32, names: tuple[str, ...]) -> Prediction:
        """From logits ``(N, K)`` or ``(N, P, K)``; of equal ones the first class wins."""
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probabilities = powers / powers.sum(axis=-1, keepdims=True)
        return Prediction(logits.argmax(axis=-1).astype(np.int64), probabilities, names)

    def __len__(self) -> int:
        return len(self.classes)

    def labels(self) -> list[tuple[str, ...]]:
        """Per image, the name of the most probable class at each position (one where P is 1)."""
        rows = self.classes.reshape(len(self), -1)
        return [tuple(self.names[index] for index in row) for row in rows]

    def top(self, count: int) -> list[list[list[tuple[str, float]]]]:
        """Per image and position, the `count` most probable classes with their probabilities."""
        k = self.probabilities.shape[-1]
        rows = self.probabilities.reshape(len(self), -1, k)
        best = np.argsort(-rows, axis=-1, kind="stable")[..., :count]
        return [
            [
                [(self.names[i], float(rows[image, place, i])) for i in best[image, place]]
                for place in range(rows.shape[1])
            ]
            for image in range(len(self))
        ]
