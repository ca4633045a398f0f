"""From the updates of a sealed round to one change: which rules there are, and what each can bear.

=================  =======  ===========================  ============================================
rule               weights  bears liars                  source
=================  =======  ===========================  ============================================
mean               used     none                         McMahan et al. 2017
clipped_mean       used     fewer than half, and each     Sun et al. 2019
                            pulls by up to the bound
median             no       fewer than half              Yin et al. 2018
trimmed_mean       no       the share named              Yin et al. 2018
krum, multi_krum   no       the share named, n >= 2f+3   Blanchard et al. 2017
geometric_median   used     less than half of the weight  Pillutla et al. 2022
=================  =======  ===========================  ============================================

No rule but the mean has a meaning in secure mode: the server has no single update there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from emberfleet.core.arrays import Float64
from emberfleet.core.errors import ConfigError, RoundError
from emberfleet.core.updates import UpdatePlan
from emberfleet.server.aggregate.clipping import clipped_mean
from emberfleet.server.aggregate.geometric_median import geometric_median
from emberfleet.server.aggregate.krum import krum
from emberfleet.server.aggregate.ordered import coordinate_median, trimmed_mean
from emberfleet.server.aggregate.stored import StoredUpdates
from emberfleet.server.aggregate.weighted_sum import weighted_mean

RULES: Final = ("mean", "clipped_mean", "median", "trimmed_mean", "krum", "multi_krum", "geometric_median")
_BY_SHARE: Final = ("trimmed_mean", "krum", "multi_krum")


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """How the updates of a sealed round become one.

    Attributes:
        rule: One of `RULES`.
        byzantine_share: Largest share of devices that may lie, for the rules that are told.
        norm_clip: Norm that the clipped mean cuts to, in real units; 0 for the median of the norms.
    """

    rule: str = "mean"
    byzantine_share: float = 0.2
    norm_clip: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"rule is '{self.rule}', expected one of {', '.join(RULES)}")
        if not 0 <= self.byzantine_share < 0.5:
            raise ConfigError(f"byzantine_share is {self.byzantine_share}, expected 0 to below 0.5")
        if not 0 <= self.norm_clip <= 1e6:
            raise ConfigError(f"norm_clip is {self.norm_clip}, expected 0 to 1000000")

    def byzantine(self, devices: int) -> int:
        """How many of so many updates may lie without leading the rule astray."""
        if self.rule == "mean":
            return 0
        if self.rule in _BY_SHARE:
            return math.ceil(self.byzantine_share * devices - 1e-9)
        return (devices - 1) // 2

    def check_cohort(self, devices: int) -> None:
        """Raise `RoundError` where so few updates cannot bear the liars that the rule is meant for."""
        liars = self.byzantine(devices)
        least = {"mean": 1, "trimmed_mean": 2 * liars + 1, "krum": 2 * liars + 3, "multi_krum": 2 * liars + 3}
        if devices < least.get(self.rule, 3):
            raise RoundError(
                f"rule {self.rule}: {devices} updates, expected at least {least.get(self.rule, 3)}"
                + (f" to bear {liars} that lie" if self.rule in _BY_SHARE else "")
                + "; ask more devices, raise `minimum`, or choose another rule"
            )


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What a round learnt.

    Attributes:
        mean: Flat change in wire numbers (steps), as `core.updates.unflatten_update` reads it.
        weight: Number of samples behind it.
        excluded: Devices whose update the rule left out whole.
    """

    mean: Float64
    weight: int
    excluded: tuple[str, ...] = ()


def aggregate(
    settings: RuleSettings, updates: StoredUpdates, plan: UpdatePlan, threads: int = 1
) -> Aggregate:
    """Make one change of all updates.

    Args:
        settings: The rule.
        updates: Checked by `admission.check_update`, each of them.
        plan: Of the updates.
        threads: How many may work; the result is the same.

    Raises:
        RoundError: Too few updates for the rule, or too many.
    """
    count = len(updates.devices)
    settings.check_cohort(count)
    liars = settings.byzantine(count)
    left_out: tuple[str, ...] = ()
    match settings.rule:
        case "clipped_mean":
            mean = clipped_mean(updates, plan, settings.norm_clip, threads)
        case "median":
            mean = coordinate_median(updates)
        case "trimmed_mean":
            mean = trimmed_mean(updates, liars)
        case "krum":
            mean, left_out = krum(updates, plan, liars, 1, threads)
        case "multi_krum":
            mean, left_out = krum(updates, plan, liars, count - liars - 2, threads)
        case "geometric_median":
            mean = geometric_median(updates, plan, threads)
        case _:
            mean = weighted_mean(updates, threads)
    weights = zip(updates.devices, updates.weights, strict=True)
    return Aggregate(mean, sum(weight for name, weight in weights if name not in left_out), left_out)
