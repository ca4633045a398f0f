"""From the mean change to the next model, with momentum on the server (FedAvgM).

``velocity = momentum * velocity + change;  new = old + rate * velocity`` (Hsu et al. 2019,
arXiv:1909.06335, section 4.3). Running statistics and ranges are measurements, not parameters:
they take the mean as it is, since momentum could push a variance below zero.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from emberfleet.core.arrays import Float32, Tensors
from emberfleet.core.errors import RoundError

MEASURED: Final = ("/mean", "/variance", "/range")


def next_model(
    old: Tensors, change: Tensors, velocity: Tensors, momentum: float, rate: float
) -> tuple[dict[str, Float32], dict[str, Float32]]:
    """The model after one round.

    Args:
        old: All tensors of the published model.
        change: Mean change by name; tensors that are not named stay.
        velocity: What the last round left; empty in the first. A tensor of another shape starts anew.
        momentum: In [0, 1); 0 is plain federated averaging.
        rate: The server's learning rate; 1 takes the mean as it is.

    Returns:
        All tensors of the new model, and the velocity for the next round (empty without momentum).

    Raises:
        RoundError: A tensor of the new model is not finite.
    """
    new = {name: np.asarray(value) for name, value in old.items()}
    kept: dict[str, Float32] = {}
    for name, delta in change.items():
        if name.endswith(MEASURED):
            new[name] = old[name] + delta
            if name.endswith("/variance"):
                new[name] = np.maximum(new[name], np.float32(0))
        else:
            if momentum:
                before = velocity.get(name)
                delta = delta if before is None or before.shape != delta.shape else momentum * before + delta
                kept[name] = np.asarray(delta, np.float32)
            new[name] = np.asarray(old[name] + rate * delta, np.float32)
        if not np.isfinite(new[name]).all():
            raise RoundError(f"apply: '{name}' of the new model is not finite")
    return new, kept
