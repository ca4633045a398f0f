"""How many neighbours a device has in a round's graph, and how many of them must answer.

Secure sums need of the graph, for a cohort of N of which a share is corrupt and a share drops out:

- with probability at least ``1 - 2**-sigma`` no device has `threshold` corrupt neighbours, and the honest
  devices that stay are connected: otherwise the server could learn a sum over fewer of them;
- with probability at least ``1 - 2**-eta`` every device keeps `threshold` neighbours: otherwise the round
  fails.

The number of corrupt (or staying) devices among k neighbours is hypergeometric. Tails are summed term by
term from factorials' logarithms, without an approximation; the tests hold them against integers.

Source:
    Bell, Bonawitz, Gascon, Lepoint, Raykova 2020, "Secure single-server aggregation with
    (poly)logarithmic overhead", section 3 and lemma 3.9.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from emberfleet.core.errors import ConfigError

SIGMA: Final = 40
ETA: Final = 20
SMALL_COHORT: Final = 32
"""Up to here everybody is everybody's neighbour: it costs little, and leaves nothing to chance."""
MAX_COHORT: Final = 1 << 16
LEAST_COHORT: Final = 3
"""With two devices each learns the other's update from the sum."""


@dataclass(frozen=True, slots=True)
class GraphParameters:
    """The graph of one round.

    Attributes:
        cohort: Number of devices.
        degree: Neighbours of each device.
        corrupt: The most corrupt neighbours that a device has, but for the stated probability.
        threshold: Shares that give a secret back; the lowest that is safe.
        highest_threshold: The highest that drop-outs leave in reach.
    """

    cohort: int
    degree: int
    corrupt: int
    threshold: int
    highest_threshold: int

    @property
    def complete(self) -> bool:
        """Whether everybody is everybody's neighbour."""
        return self.degree == self.cohort - 1

    @property
    def split_proof(self) -> bool:
        """Whether neighbours that are told different survivors can never give both secrets of one device.

        An honest neighbour gives one share, a corrupt one both: ``degree + corrupt`` shares in all, of
        which two secrets would take ``2 * threshold``.
        """
        return 2 * self.threshold > self.degree + self.corrupt


def choose_parameters(
    cohort: int,
    corrupt_share: float,
    dropout_share: float,
    split_proof: bool = False,
    sigma: int = SIGMA,
    eta: int = ETA,
) -> GraphParameters:
    """The sparsest graph that holds what the module's docstring says; the complete one for small cohorts.

    Args:
        cohort: Devices in the round, 3 to 65536.
        corrupt_share: Share of them that may work with the server, below 1.
        dropout_share: Share of them that may vanish, below 1.
        split_proof: Ask for `GraphParameters.split_proof` too, at the price of more neighbours.
        sigma: Privacy fails with probability ``2**-sigma`` at most.
        eta: The round fails with probability ``2**-eta`` at most.

    Raises:
        ConfigError: Not such numbers, or so many corrupt and vanishing that no graph will do.
    """
    if not LEAST_COHORT <= cohort <= MAX_COHORT:
        raise ConfigError(f"secure sums: a cohort of {cohort}, expected {LEAST_COHORT} to {MAX_COHORT}")
    for name, share in (("corrupt", corrupt_share), ("drop-out", dropout_share)):
        if not 0 <= share < 1:
            raise ConfigError(f"secure sums: a {name} share of {share}, expected 0 to below 1")
    corrupt = _whole(corrupt_share * cohort)
    dropped = _whole(dropout_share * cohort)
    if cohort > SMALL_COHORT:
        privacy = -(sigma + 1) * math.log(2)
        delivery = -eta * math.log(2)
        for degree in range(2, cohort - 1, 2):
            if not _connected(cohort, degree, corrupt + dropped, privacy):
                continue
            each = math.log(cohort)
            most = most_drawn(cohort, corrupt, degree, privacy - each)
            highest = least_drawn(cohort, cohort - dropped, degree, delivery - each)
            lowest = _split_proof(degree, most) if split_proof else most + 1
            if max(lowest, 2) <= highest:
                return GraphParameters(cohort, degree, most, max(lowest, 2), highest)
    return _complete(cohort, corrupt, dropped, split_proof)


def most_drawn(population: int, marked: int, drawn: int, log_bound: float) -> int:
    """The smallest t for which more than t marked among those drawn has at most this probability.

    Args:
        population: All there are.
        marked: How many of them are marked.
        drawn: How many are drawn, none twice.
        log_bound: Natural logarithm of the probability.
    """
    tail = -math.inf
    for count in range(min(marked, drawn), -1, -1):
        tail = _log_add(tail, _log_chance(population, marked, drawn, count))
        if tail > log_bound:
            return count
    return 0


def least_drawn(population: int, marked: int, drawn: int, log_bound: float) -> int:
    """The largest t, at most `drawn`, for which fewer than t marked has less than this probability."""
    tail = -math.inf
    for count in range(drawn):
        tail = _log_add(tail, _log_chance(population, marked, drawn, count))
        if tail >= log_bound:
            return count
    return drawn


def _connected(cohort: int, degree: int, lost: int, log_bound: float) -> bool:
    # A Harary graph falls apart when two runs of degree / 2 neighbours on its ring are all lost. There
    # are cohort * (cohort - degree - 1) / 2 such pairs; each is lost with C(lost, k) / C(cohort, k).
    if degree > lost:
        return True
    pairs = math.log(cohort) + math.log(cohort - degree - 1) - math.log(2)
    return pairs + _log_choose(lost, degree) - _log_choose(cohort, degree) < log_bound


def _complete(cohort: int, corrupt: int, dropped: int, split_proof: bool) -> GraphParameters:
    degree, highest = cohort - 1, cohort - 1 - dropped
    lowest = max(corrupt + 1, 2)
    safest = max(_split_proof(degree, corrupt), lowest)
    if safest <= highest or split_proof:
        lowest = safest
    if lowest > highest:
        raise ConfigError(
            f"secure sums: of {cohort} devices {corrupt} may be corrupt and {dropped} may vanish; {highest} "
            f"neighbours would be left, and {lowest} are needed to outvote the corrupt ones. "
            "Take a larger cohort, or smaller shares"
        )
    return GraphParameters(cohort, degree, corrupt, lowest, highest)


def _split_proof(degree: int, corrupt: int) -> int:
    return (degree + corrupt) // 2 + 1


def _whole(count: float) -> int:
    # 0.29 * 100 is a little below 29.
    return math.floor(count + 1e-9)


def _log_chance(population: int, marked: int, drawn: int, count: int) -> float:
    ways = _log_choose(marked, count) + _log_choose(population - marked, drawn - count)
    return ways - _log_choose(population, drawn)


def _log_choose(n: int, k: int) -> float:
    if not 0 <= k <= n:
        return -math.inf
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
