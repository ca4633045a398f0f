"""From the mean change to the next model: the server's optimizers.

``d`` is the mean change of one round, ``x`` the model; all of it element by element:

- fedavg: ``x += rate * d`` (McMahan et al. 2017, arXiv:1602.05629)
- fedavgm: ``m = momentum * m + d;  x += rate * m`` (Hsu et al. 2019, arXiv:1909.06335, section 4.3)
- fedadam: ``m = momentum * m + (1 - momentum) * d;  v = beta2 * v + (1 - beta2) * d*d``
- fedyogi: `m` alike;  ``v = v - (1 - beta2) * d*d * sign(v - d*d)``
- both:    ``x += rate * m / (sqrt(v) + tau)``, with ``v = tau*tau`` before the first round and no
  correction of the first rounds (Reddi et al. 2021, arXiv:2003.00295, algorithm 2)

Running statistics and ranges are measurements, not parameters: they take the mean as it is, since a step of
another size could push a variance below zero.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np

from emberfleet.core.arrays import Float32, Float64, Tensors
from emberfleet.core.errors import RoundError

OPTIMIZERS: Final = ("fedavg", "fedavgm", "fedadam", "fedyogi")
MEASURED: Final = ("/mean", "/variance", "/range")


class OptimizerSettings(Protocol):
    """What an optimizer reads of a round's plan."""

    @property
    def server_optimizer(self) -> str:
        """One of `OPTIMIZERS`."""

    @property
    def server_rate(self) -> float:
        """Learning rate; of fedavg the share of the mean that is applied."""

    @property
    def server_momentum(self) -> float:
        """What stays of the direction from one round to the next, in [0, 1) (beta1)."""

    @property
    def server_beta2(self) -> float:
        """What stays of the mean square, in [0, 1)."""

    @property
    def server_tau(self) -> float:
        """How adaptive: the smaller, the more; above 0."""


def next_model(
    old: Tensors, change: Tensors, state: Tensors, settings: OptimizerSettings
) -> tuple[dict[str, Float32], dict[str, Float32]]:
    """The model after one round.

    Args:
        old: All tensors of the published model.
        change: Mean change by name; tensors that are not named stay.
        state: What the last round left: ``fedadam/momentum/conv/weight`` and so on. Empty in the first
            round; a tensor of another shape, or of another optimizer, starts anew.
        settings: The optimizer and its constants.

    Returns:
        All tensors of the new model, and the state for the next round.

    Raises:
        RoundError: A tensor of the new model is not finite.
    """
    new = {name: np.asarray(value) for name, value in old.items()}
    kept: dict[str, Float32] = {}
    for name, mean in change.items():
        if name.endswith(MEASURED):
            new[name] = old[name] + mean
            if name.endswith("/variance"):
                new[name] = np.maximum(new[name], np.float32(0))
        else:
            step, moments = _step(name, mean.astype(np.float64), state, settings)
            new[name] = (old[name] + settings.server_rate * step).astype(np.float32)
            kept.update((key, moment.astype(np.float32)) for key, moment in moments.items())
        if not np.isfinite(new[name]).all():
            raise RoundError(
                f"apply: '{name}' of the new model is not finite; choose a lower `server_rate` or `clip`"
            )
    return new, kept


def _step(
    name: str, mean: Float64, state: Tensors, settings: OptimizerSettings
) -> tuple[Float64, dict[str, Float64]]:
    """By how much a tensor moves at rate 1, and its moments after."""
    optimizer, beta1, beta2 = settings.server_optimizer, settings.server_momentum, settings.server_beta2
    if optimizer == "fedavg":
        return mean, {}

    def before(key: str, start: float) -> Float64:
        found = state.get(key)
        if found is None or found.shape != mean.shape:
            return np.full(mean.shape, start)
        return found.astype(np.float64)

    first, second = f"{optimizer}/momentum/{name}", f"{optimizer}/second/{name}"
    if optimizer == "fedavgm":
        velocity = beta1 * before(first, 0.0) + mean
        return velocity, {first: velocity}
    direction = beta1 * before(first, 0.0) + (1 - beta1) * mean
    square, start = mean * mean, settings.server_tau**2
    match optimizer:
        case "fedadam":
            scale = beta2 * before(second, start) + (1 - beta2) * square
        case "fedyogi":
            scale = before(second, start)
            scale -= (1 - beta2) * square * np.sign(scale - square)
        case _:
            raise RoundError(f"apply: no optimizer '{optimizer}', expected one of {', '.join(OPTIMIZERS)}")
    return direction / (np.sqrt(scale) + settings.server_tau), {first: direction, second: scale}
