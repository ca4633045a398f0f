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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from emberfleet.cli.fleet_figures.children import child_of
from emberfleet.core.messages import ModelInfo
from emberfleet.core.offers import RoundTerms, SecureTerms
from emberfleet.core.secure.agreement import MaskKey, RoundContext
from emberfleet.core.secure.answers import Disclosure, MaskedHeader, MaskedUpdate, Survivors
from emberfleet.core.secure.group import Graph, Group
from emberfleet.core.secure.layout import SumLayout
from emberfleet.core.secure.masking import Mask, add_masks, mask_update
from emberfleet.core.secure.messages import Advert, Roster
from emberfleet.core.secure.packing import pack
from emberfleet.core.secure.pairs import Member, masks_added, masks_left
from emberfleet.core.secure.parameters import GraphParameters, choose_parameters
from emberfleet.core.secure.shamir import split_secret
from emberfleet.core.signing import SigningKey
from emberfleet.core.updates import TensorPlan, UpdatePlan
from emberfleet.runtime.measuring import MeasuredProcess, serve

if TYPE_CHECKING:
    from emberfleet.server.rounds.state import Round

SIZE: Final = 1_250_000
BITS: Final = 8
MANY: Final = 1000
HEAVIEST: Final = 1000
NEIGHBOURS: Final = 20
THRESHOLD: Final = 11
CORRUPT: Final = 0.05
DROPOUT: Final = 0.3
ROUND_ID: Final = "5e" * 16
CONTEXT: Final = RoundContext(ROUND_ID, bytes(range(32)))
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

    @property
    def parameters(self) -> GraphParameters:
        """The graph."""
        return GraphParameters(self.devices, self.neighbours, 0, self.threshold, self.threshold)


class Masking:
    """What a device does between its training and its upload."""

    def __init__(self, case: Case, size: int) -> None:
        numbers = np.random.default_rng(0)
        self._layout = SumLayout(plan_of(size), case.devices, HEAVIEST)
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
    """What a server does when the shares have come: secrets, checked; the uploads' sum; masks; the mean."""

    def __init__(self, case: Case, size: int) -> None:
        self._threads = case.threads
        self._folder = TemporaryDirectory(prefix="emberfleet-")
        self._round, secrets = unmasked_round(case, size)
        group, self._survivors = self._round.known_group, self._round.known_survivors.survivors
        members = [group.member(position) for position in range(case.devices)]
        graph = [group.neighbours[position] for position in range(case.devices)]
        masks = masks_left(members, graph, self._survivors, secrets, group.context)
        self._count = len(masks)
        self._expected = np.random.default_rng(0).integers(-100, 100, size)
        self._paths = self._write_uploads(group.layout, masks)

    def call(self) -> None:
        """From shares and uploads to the mean, with the server's own functions."""
        from emberfleet.server.rounds.unmasking import recover_secrets, sum_uploads

        secrets = recover_secrets(self._round)
        self._read = sum_uploads(self._round, self._path_of, secrets, self._threads)

    def facts(self) -> dict[str, Any]:
        """How many masks there were; what is left must be the sum."""
        weight = HEAVIEST * len(self._survivors)
        assert self._read.weight == weight
        assert np.allclose(self._read.mean, self._expected * (HEAVIEST / weight))
        self._folder.cleanup()
        return {"masks": self._count}

    def _path_of(self, device_id: str) -> Path:
        return self._paths[device_id == self._first]

    def _write_uploads(self, layout: SumLayout, masks: Sequence[Mask]) -> tuple[Path, Path]:
        """One upload that all but one device sent, and that one's, which makes the sum what it must be."""
        word, group = layout.ring.word, self._round.known_group
        weights = [digit * len(self._survivors) for digit in layout.write_weight(HEAVIEST)]
        total = np.concatenate([self._expected, weights]).astype(word)
        add_masks(total, [mask.inverse() for mask in masks])
        usual = np.random.default_rng(1).integers(0, np.iinfo(word).max, total.size, word, endpoint=True)
        first = total - usual * word.type(len(self._survivors) - 1)
        self._first = group.roster.ids[self._survivors[0]]
        header = MaskedHeader(ROUND_ID, self._first, 1, group.digest)
        paths = Path(self._folder.name) / "usual", Path(self._folder.name) / "first"
        for path, words in zip(paths, (usual, first), strict=True):
            path.write_bytes(MaskedUpdate.join(header, pack(words, layout.ring)))
        return paths


def unmasked_round(case: Case, size: int) -> tuple[Round, dict[int, bytes]]:
    """A round whose shares have come, three of ten devices having vanished; and the secrets behind them."""
    from emberfleet.server.rounds.plan import RoundPlan
    from emberfleet.server.rounds.state import Phase, Round

    terms = RoundTerms(
        ROUND_ID,
        1,
        ModelInfo(1, "0" * 64, 1),
        plan_of(size),
        {},
        0,
        SecureTerms(3, CORRUPT, DROPOUT, HEAVIEST),
    )
    keys = {key.verify_key.raw: (key, MaskKey.generate()) for key in _signing_keys(case.devices)}
    sealing_key = MaskKey.generate().public
    adverts = [
        Advert.sign(key, mask_key, sealing_key, raw, ROUND_ID, terms.digest)
        for raw, (key, mask_key) in keys.items()
    ]
    roster = Roster.of(ROUND_ID, terms.digest, adverts)
    graph = GivenGraph(roster, terms, case.parameters)
    group = Group(graph, tuple(range(case.devices)))
    alive = frozenset(position for place, position in enumerate(graph.order) if place % 10 not in (0, 3, 6))
    survivors = Survivors(group.digest, tuple(sorted(alive)), tuple(sorted(set(range(case.devices)) - alive)))
    secrets: dict[int, bytes] = {}
    given: dict[int, list[tuple[int, bytes]]] = {position: [] for position in alive}
    for position, advert in enumerate(roster.members):
        # A public key serves as the secret of the own mask: 32 bytes that the commitment was made for.
        secret = advert.public_key if position in alive else keys[advert.public_key][1].secret()
        secrets[position] = secret
        points = [other + 1 for other in group.neighbours[position]]
        for share in split_secret(secret, case.threshold, points, random.randrange):
            if share.point - 1 in alive:
                given[share.point - 1].append((position, share.encode()))
    disclosures = {
        holder: Disclosure(
            survivors.digest,
            tuple(share for share in shares if share[0] in alive),
            tuple(share for share in shares if share[0] not in alive),
        )
        for holder, shares in given.items()
    }
    round_ = Round(
        terms,
        terms.digest,
        RoundPlan(cohort=case.devices, minimum=3, bits=BITS, heaviest=HEAVIEST),
        Phase.APPLY,
        0.0,
        cohort=roster.ids,
        graph=graph,
        group=group,
        survivors=survivors,
        disclosures=disclosures,
    )
    return round_, secrets


@dataclass(frozen=True)
class GivenGraph(Graph):
    """A graph whose degree and threshold are given, where a server would choose them."""

    given: GraphParameters

    @cached_property
    def parameters(self) -> GraphParameters:
        """The given ones."""
        return self.given


def _signing_keys(count: int) -> Iterator[SigningKey]:
    return (SigningKey.generate() for _ in range(count))


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


def plan_of(size: int) -> UpdatePlan:
    """Fifty tensors, as networks have many."""
    return UpdatePlan(tuple(TensorPlan(f"tensor {index}", (size // 50,), 0.5) for index in range(50)), BITS)


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
