"""Whether a new model does worse on this device than the one that served before.

The average of a fleet can be better for most and worse for one: other light, other handwriting, a rare
class. Only the device can see that, on samples it does not train on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from emberfleet.core.errors import EmberError
from emberfleet.core.messages import ModelReport

if TYPE_CHECKING:
    from emberfleet.agent.samples import Samples
    from emberfleet.core.arrays import Int64, UInt8

log = logging.getLogger(__name__)
TOLERANCE: Final = 0.05
"""Accuracy may fall by so much: with the tens of samples a device has, two models that are equally good
differ by some points."""
LEAST_MORE_WRONG: Final = 2
"""And so many more samples must be wrong: with fewer than 20 of them a single one is more than 5 points."""
MOST_SAMPLES: Final = 256

Evaluate: TypeAlias = "Callable[[Path, UInt8, Int64], int]"
"""Runs a bundle on images and gives how many it gets right, every position of a label."""


def judge(
    evaluate: Evaluate, new: Path, old: Path, samples: Samples, tolerance: float = TOLERANCE
) -> ModelReport | None:
    """Compare two bundles on the held-out samples; None where there is nothing to compare with.

    A new model that cannot be run here gets nothing right. Where the old one cannot be run either,
    nothing is known.

    Args:
        evaluate: Runs a bundle.
        new: The newest.
        old: The one that serves.
        samples: The device's; at most `MOST_SAMPLES` of the held-out ones are used, evenly spread.
        tolerance: Share of samples by which accuracy may fall.
    """
    held = len(samples.held_images)
    if not held:
        return None
    import numpy as np

    places = np.unique(np.linspace(0, held - 1, min(held, MOST_SAMPLES)).astype(np.intp))
    images, labels = samples.held_images[places], samples.held_labels[places]
    count = len(places)
    try:
        right_before = evaluate(old, images, labels)
    except EmberError as error:
        log.warning("the model that serves cannot be measured: %s", error)
        return None
    try:
        right = evaluate(new, images, labels)
    except EmberError as error:
        log.warning("the new model cannot be run here: %s", error)
        right = 0
    kept = not is_worse(right, right_before, count, tolerance)
    return ModelReport(right / count, right_before / count, count, kept)


def is_worse(right: int, right_before: int, count: int, tolerance: float = TOLERANCE) -> bool:
    """Whether so few right are too few: by more than the tolerance, and by more than chance in one sample."""
    more_wrong = right_before - right
    return more_wrong >= LEAST_MORE_WRONG and more_wrong > tolerance * count
