"""Secure sums of 1.25 million values in 8 bits: what a device's mask costs, and the server's unmasking.

A device agrees with 20 neighbours on seeds, rounds its change, masks and packs it. A server puts the secrets
together from their shares, makes the seeds of the pairs that lost one, and takes the masks out of the sum;
three devices in ten vanished, evenly around the ring. The graph that `choose_parameters` gives for a
thousand stands beside the one with 20 neighbours.

``python -m emberfleet.cli.fleet_figures.sums CASE SIZE`` is the child that does one of them, CASE in JSON.
"""

from __future__ import annotations

import json
import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from emberfleet.cli.fleet_figures.children import child_of
from emberfleet.core.secure.agreement import MaskKey, RoundContext
from emberfleet.core.secure.layout import SumLayout
from emberfleet.core.secure.masking import add_masks, mask_update, read_sum
from emberfleet.core.secure.neighbours import harary_graph, permute
from emberfleet.core.secure.pairs import Member, masks_added, masks_left
from emberfleet.core.secure.parameters import choose_parameters
from emberfleet.core.secure.shamir import combine_shares, split_secret
from emberfleet.core.updates import TensorPlan, UpdatePlan
from emberfleet.runtime.measuring import MeasuredProcess, serve

SIZE: Final = 1_250_000
BITS: Final = 8
MANY: Final = 1000
HEAVIEST: Final = 1000
NEIGHBOURS: Final = 20
THRESHOLD: Final = 11
CORRUPT: Final = 0.05
DROPOUT: Final = 0.3
CONTEXT: Final = RoundContext("5e" * 16, bytes(range(32)))
SEED: Final = bytes(32)
MASK: Final = "mask"
UNMASK: Final = "unmask"


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that is timed."""

    work: str
    devices: int
    neighbours: int
    threshold: int
    threads: int

    @property
    def name(self) -> str:
        """As the figures call it."""
        graph = "" if (self.neighbours, self.threshold) == (NEIGHBOURS, THRESHOLD) else ", chosen graph"
        return f"{self.work} {self.devices}{graph}"


class Masking:
    """What a device does between its training and its upload."""

    def __init__(self, case: Case, size: int) -> None:
        numbers = np.random.default_rng(0)
        self._layout = layout_of(case.devices, size)
        self._change = numbers.normal(0, 0.1, size).astype(np.float32)
        self._key, self._secret = MaskKey.generate(), os.urandom(32)
        self._neighbours = [
            Member(device_id(index), MaskKey.generate().public) for index in range(case.neighbours)
        ]

    def call(self) -> None:
        """Seeds, rounding, masks, packing."""
        masks = masks_added("f" * 32, self._key, self._secret, self._neighbours, CONTEXT)
        self._sent = mask_update(self._change, 100, self._layout, masks, SEED)

    def facts(self) -> dict[str, Any]:
        """How long the update is, and how many masks are in it."""
        assert len(self._sent) == self._layout.size_bytes
        return {"update_bytes": len(self._sent), "masks": 1 + len(self._neighbours)}


class Unmasking:
    """What a server does when the shares have come; the sum of the masked updates is there."""

    def __init__(self, case: Case, size: int) -> None:
        self._case, self._layout = case, layout_of(case.devices, size)
        order = permute(SEED, case.devices)
        self._graph = harary_graph(order, case.neighbours)
        self._survivors = [position for place, position in enumerate(order) if place % 10 not in (0, 3, 6)]
        keys = [MaskKey.generate() for _ in order]
        self._members = [Member(device_id(index), key.public) for index, key in enumerate(keys)]
        present = frozenset(self._survivors)
        self._shares = []
        for index, key in enumerate(keys):
            secret = os.urandom(32) if index in present else key.secret()
            holders = [other + 1 for other in self._graph[index]]
            shares = split_secret(secret, case.threshold, holders, random.randrange)
            self._shares.append([share for share in shares if share.point - 1 in present])
        self._expected = (
            np.random.default_rng(0).integers(-100, 100, self._layout.size).astype(self._layout.ring.word)
        )
        self._expected[self._layout.values :] = [
            digit * len(self._survivors) for digit in self._layout.write_weight(HEAVIEST)
        ]
        self._masked = self._expected.copy()
        add_masks(self._masked, [mask.inverse() for mask in self._left()])

    def call(self) -> None:
        """Secrets, seeds, masks, mean."""
        self._total = self._masked.copy()
        masks = self._left()
        self._count = len(masks)
        with ThreadPoolExecutor(self._case.threads) as threads:
            add_masks(self._total, masks, threads, self._case.threads)
        self._read = read_sum(self._total, self._layout, len(self._survivors))

    def facts(self) -> dict[str, Any]:
        """How many masks there were; what is left must be the sum."""
        assert (self._total == self._expected).all()
        assert self._read.weight == HEAVIEST * len(self._survivors)
        return {"masks": self._count}

    def _left(self) -> list[Any]:
        threshold = self._case.threshold
        secrets = {index: combine_shares(shares, threshold) for index, shares in enumerate(self._shares)}
        return masks_left(self._members, self._graph, self._survivors, secrets, CONTEXT)


def cases(many: int = MANY) -> list[Case]:
    """All that is timed, the three that are summed up first."""
    cores = os.cpu_count() or 1
    chosen = choose_parameters(many, CORRUPT, DROPOUT)
    return [
        Case(MASK, 100, NEIGHBOURS, THRESHOLD, 1),
        Case(UNMASK, 50, NEIGHBOURS, THRESHOLD, 1),
        Case(UNMASK, many, NEIGHBOURS, THRESHOLD, cores),
        Case(UNMASK, many, chosen.degree, chosen.threshold, cores),
    ]


def layout_of(devices: int, size: int) -> SumLayout:
    """Fifty tensors, as networks have many."""
    tensors = tuple(TensorPlan(f"tensor {index}", (size // 50,), 0.5) for index in range(50))
    return SumLayout(UpdatePlan(tensors, BITS), devices, HEAVIEST)


def device_id(index: int) -> str:
    """An id like any other."""
    return f"{index:032x}"


def start(case: Case, size: int = SIZE) -> MeasuredProcess:
    """A child that gets ready for one case."""
    return child_of(f"secure {case.name}", __name__, json.dumps(asdict(case)), str(size))


def _work(case: Case, size: int) -> Masking | Unmasking:
    return (Masking if case.work == MASK else Unmasking)(case, size)


if __name__ == "__main__":
    serve(lambda: _work(Case(**json.loads(sys.argv[1])), int(sys.argv[2])))
