"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from emberfleet.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Schedule:
    """A linear warm-up, then one of three shapes.

    Attributes:
        peak: The rate at the end of the warm-up.
        steps: Steps of the whole run; from there on the rate stays at its last value.
        warmup_steps: Steps over which the rate rises from ``peak / warmup_steps`` to `peak`.
        shape: ``cosine`` falls to `floor` along half a cosine; ``constant`` stays; ``step``
            multiplies by `factor` after each `every` steps.
        floor: Share of `peak` at which the cosine ends.
    """

    peak: float
    steps: int
    warmup_steps: int = 0
    shape: Literal["cosine", "constant", "step"] = "cosine"
    floor: float = 0.0
    every: int = 0
    factor: float = 0.1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.peak) and self.peak > 0):
            raise ConfigError(f"schedule: the rate is {self.peak}, expected a number above 0")
        if self.steps < 1 or not 0 <= self.warmup_steps <= self.steps:
            raise ConfigError(
                f"schedule: {self.warmup_steps} warm-up steps of {self.steps}; expected 0 to all of them"
            )
        if self.shape not in ("cosine", "constant", "step"):
            raise ConfigError(f"schedule: '{self.shape}' is unknown; choose cosine, constant or step")
        if self.shape == "step" and self.every < 1:
            raise ConfigError("schedule: 'step' needs to know after how many steps the rate falls")

    def rate(self, step: int) -> float:
        """The rate of step number `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.shape == "constant":
            return self.peak
        after = step - self.warmup_steps
        if self.shape == "step":
            return self.peak * self.factor ** (after // self.every)
        share = min(after / max(self.steps - self.warmup_steps, 1), 1.0)
        return self.peak * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * share)))
